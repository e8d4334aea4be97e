import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';

import type { Memory } from './deaths';
import { remember, remembered } from './deaths';
import type { DLEnvModel } from './model';
import type { IJob } from './tokens';
import { hasEnded } from './tokens';

const POLL_MS = 5000;
const POLL_MAX_MS = 300_000;
const STORAGE_KEY = 'jupyter-dlenv:announced-ends';
const LOOK_KEY = 'jupyter-dlenv:last-look-at-jobs';
const MAX_KNOWN = 200;

/** What a look at the jobs leaves for the next page. */
interface ILook {
  /** The latest end that was there, by the server's clock; no clock of this browser's is compared with it. */
  readonly until: number;
  /** Jobs that were there. A list with none of them is another server's at the same address. */
  readonly known: readonly string[];
}

export interface IEndWatchOptions {
  readonly model: DLEnvModel;
  readonly memory: Memory;
  /** Whether anything runs that could have started a job. */
  readonly anyRunning: () => boolean;
  readonly announce: (job: IJob) => void;
}

/** Announces each job that has ended since this browser looked last, once. What ended before the first look is old. */
export class EndWatch implements IDisposable {
  constructor(private readonly _options: IEndWatchOptions) {
    _options.model.stateChanged.connect(this._look, this);
    this._poll = new Poll({
      name: 'jupyter-dlenv:ends',
      factory: () => this._ask(),
      frequency: { interval: POLL_MS, backoff: true, max: POLL_MAX_MS },
      standby: 'when-hidden'
    });
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
  }

  private async _ask(): Promise<void> {
    if (this._first || this._running.size > 0 || this._options.anyRunning()) {
      await this._options.model.refreshJobs();
      this._first = false;
    }
  }

  private _look(): void {
    const { model, memory, announce } = this._options;
    if (!model.jobs.loaded) {
      return;
    }
    const { items } = model.jobs;
    const since = this._until ?? lastLook(memory, items) ?? Infinity;
    const ended = items.filter(job => this._hasJustEnded(job, since));
    this._note(items);
    const known = new Set(remembered(memory, STORAGE_KEY));
    const news = ended.filter(job => !known.has(job.id) && !model.isShown(job.id));
    if (ended.length > 0) {
      const names = ended.map(job => job.id).filter(id => !known.has(id));
      remember(memory, names, STORAGE_KEY);
    }
    news.forEach(announce);
  }

  /** Note what runs; true once for each job that did, or that nobody saw before it had ended. */
  private _hasJustEnded(job: IJob, since: number): boolean {
    if (hasEnded(job.state)) {
      return this._running.delete(job.id) || (job.finished_at ?? 0) > since;
    }
    this._running.add(job.id);
    return false;
  }

  /** Keep how far this look has seen, where that has changed. */
  private _note(jobs: readonly IJob[]): void {
    const until = Math.max(this._until ?? 0, ...jobs.map(job => job.finished_at ?? 0));
    const look: ILook = { until, known: jobs.slice(0, MAX_KNOWN).map(job => job.id) };
    const text = JSON.stringify(look);
    this._until = until;
    if (text !== this._noted) {
      this._noted = text;
      keep(this._options.memory, text);
    }
  }

  /** Whether nothing was asked yet: a job may have ended while there was no page. */
  private _first = true;
  private _noted = '';
  private _poll: Poll;
  private _running = new Set<string>();
  /** The latest end that this page has seen, null before its first look. */
  private _until: number | null = null;
}

/** Return how far an earlier page had looked at these jobs, null where none had. */
function lastLook(memory: Memory, jobs: readonly IJob[]): number | null {
  try {
    const { until, known } = JSON.parse(memory.getItem(LOOK_KEY) ?? '') as ILook;
    return jobs.some(job => known.includes(job.id)) ? Number(until) : null;
  } catch {
    return null;
  }
}

function keep(memory: Memory, text: string): void {
  try {
    memory.setItem(LOOK_KEY, text);
  } catch {
    return;
  }
}
