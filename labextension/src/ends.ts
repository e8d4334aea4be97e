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

export interface IEndWatchOptions {
  readonly model: DLEnvModel;
  readonly memory: Memory;
  /** Whether anything runs that could have started a job. */
  readonly anyRunning: () => boolean;
  readonly announce: (job: IJob) => void;
}

/** Announces each job that ran when this page looked and has ended since, once a browser. */
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
    if (this._running.size > 0 || this._options.anyRunning()) {
      await this._options.model.refreshJobs();
    }
  }

  private _look(): void {
    const { model, memory, announce } = this._options;
    const ended = model.jobs.items.filter(job => this._hasJustEnded(job));
    const known = new Set(remembered(memory, STORAGE_KEY));
    const news = ended.filter(job => !known.has(job.id) && !model.isShown(job.id));
    if (ended.length > 0) {
      const names = ended.map(job => job.id).filter(id => !known.has(id));
      remember(memory, names, STORAGE_KEY);
    }
    news.forEach(announce);
  }

  /** Note what runs; true once for each job that did. */
  private _hasJustEnded(job: IJob): boolean {
    if (hasEnded(job.state)) {
      return this._running.delete(job.id);
    }
    this._running.add(job.id);
    return false;
  }

  private _poll: Poll;
  private _running = new Set<string>();
}
