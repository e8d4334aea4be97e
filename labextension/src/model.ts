import type { ServerConnection } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { ILogQuery } from './joblog';
import { JobLog, StreamSlots } from './joblog';
import type { IMetrics } from './metrics';
import { requestAPI, requestStream } from './request';
import type { IEnvironment, IJob, IKernel, TerminalKind } from './tokens';
import { waitsForGpus } from './tokens';

const POLL_MS = 2000;
const POLL_MAX_MS = 30_000;

/** One list from the server, and why it may be out of date. */
export interface ISection<T> {
  readonly items: readonly T[];
  /** Whether the server ever answered. */
  readonly loaded: boolean;
  readonly error: unknown;
}

/**
 * What the server says runs, asked for every two seconds between `watch` and `rest`.
 *
 * The only caller of `request.ts`.
 */
export class DLEnvModel implements IDisposable {
  constructor(private readonly _settings: ServerConnection.ISettings) {
    this._poll = new Poll({
      name: 'jupyter-dlenv:model',
      auto: false,
      factory: () => this._fetch(),
      frequency: { interval: POLL_MS, backoff: true, max: POLL_MAX_MS },
      standby: 'when-hidden'
    });
  }

  get stateChanged(): ISignal<this, void> {
    return this._stateChanged;
  }

  /** Emitted when an environment came or went, which kernelspecs do as well. */
  get environmentsChanged(): ISignal<this, void> {
    return this._environmentsChanged;
  }

  get environments(): ISection<IEnvironment> {
    return this._environments;
  }

  get kernels(): ISection<IKernel> {
    return this._kernels;
  }

  get jobs(): ISection<IJob> {
    return this._jobs;
  }

  /** Ids of jobs and kernels that were told to stop: a second stop of a job kills it. */
  get stopping(): ReadonlySet<string> {
    return this._stopping;
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  /** Keep the lists fresh. */
  watch(): void {
    void this._poll.refresh();
  }

  /** Stop asking. */
  rest(): void {
    void this._poll.stop();
  }

  /** Ask now; resolve when the answers are in. */
  async refresh(): Promise<void> {
    await this._fetch().catch(() => undefined);
  }

  /**
   * Stop a job: interrupt, terminate, kill; with `force` kill at once.
   *
   * @throws ApiError
   */
  async stopJob(id: string, force: boolean): Promise<void> {
    await this._whileStopping(id, async () => {
      const body = JSON.stringify({ force });
      await requestAPI(this._settings, `jobs/${id}/cancel`, { method: 'POST', body });
    });
    await this.refresh();
  }

  /**
   * Ask for the kernels alone, which can end while nobody looks at the lists.
   *
   * @throws ApiError
   */
  async refreshKernels(): Promise<void> {
    const answer = await requestAPI<{ kernels: IKernel[] }>(this._settings, 'kernels');
    if (!this.isDisposed) {
      this._kernels = { items: answer.kernels, loaded: true, error: null };
      this._forgetCancelled();
      this._stateChanged.emit();
    }
  }

  /**
   * Ask for the jobs alone, which can end while nobody looks at the lists.
   *
   * @throws ApiError
   */
  async refreshJobs(): Promise<void> {
    const answer = await requestAPI<{ jobs: IJob[] }>(this._settings, 'jobs');
    if (!this.isDisposed) {
      this._jobs = { items: answer.jobs, loaded: true, error: null };
      this._stateChanged.emit();
    }
  }

  /**
   * Return what was found of a job's metrics so far.
   *
   * @throws ApiError
   */
  async metrics(jobId: string): Promise<IMetrics> {
    return requestAPI<IMetrics>(this._settings, `jobs/${jobId}/metrics`);
  }

  /**
   * Make a terminal in a container and return its name among the server's terminals.
   *
   * @throws ApiError
   */
  async openTerminal(kind: TerminalKind, id: string): Promise<string> {
    const init = { method: 'POST', body: '{}' };
    const { name } = await requestAPI<{ name: string }>(
      this._settings,
      `${kind}/${id}/terminal`,
      init
    );
    return name;
  }

  /** Show a kernel as stopping while the action runs, then refresh. */
  async stopKernel(id: string, action: () => Promise<void>): Promise<void> {
    await this._whileStopping(id, action);
    await this.refresh();
    this._forget(id);
  }

  /**
   * Take a kernel out of the queue for GPUs; it counts as stopping until its start has noticed.
   *
   * @throws ApiError
   */
  async cancelKernel(id: string): Promise<void> {
    await this._whileStopping(id, async () => {
      await requestAPI(this._settings, `kernels/${id}/cancel`, { method: 'POST', body: '{}' });
    });
    this._cancelled.add(id);
    await this.refresh();
  }

  /** Return the log of a job, for one view to read and to dispose. */
  log(jobId: string): JobLog {
    const source = {
      job: () => requestAPI<IJob>(this._settings, `jobs/${jobId}`),
      open: (query: ILogQuery, signal: AbortSignal) =>
        requestStream(this._settings, `jobs/${jobId}/log?${parametersOf(query)}`, signal)
    };
    const log = new JobLog(jobId, source, this._slots);
    this._logs = new Set([...this._logs, log].filter(each => !each.isDisposed));
    return log;
  }

  /** True while somebody looks at the job's log. */
  isShown(jobId: string): boolean {
    return [...this._logs].some(log => log.jobId === jobId && log.isRead);
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
  }

  private async _whileStopping(id: string, action: () => Promise<void>): Promise<void> {
    this._stopping.add(id);
    this._stateChanged.emit();
    try {
      await action();
    } catch (error) {
      this._forget(id);
      throw error;
    }
  }

  private _forget(id: string): void {
    this._stopping.delete(id);
    this._stateChanged.emit();
  }

  private _forgetCancelled(): void {
    const waiting = new Set(this._kernels.items.filter(waitsForGpus).map(kernel => kernel.id));
    for (const id of [...this._cancelled].filter(id => !waiting.has(id))) {
      this._cancelled.delete(id);
      this._stopping.delete(id);
    }
  }

  /** One list that cannot be had leaves the others alone; when none can, the poll backs off. */
  private async _fetch(): Promise<void> {
    const [environments, kernels, jobs] = await Promise.allSettled([
      requestAPI<{ environments: IEnvironment[] }>(this._settings, 'environments'),
      requestAPI<{ kernels: IKernel[] }>(this._settings, 'kernels'),
      requestAPI<{ jobs: IJob[] }>(this._settings, 'jobs')
    ]);
    if (this.isDisposed) {
      return;
    }
    const before = this._environments;
    this._environments = sectionOf(environments, answer => answer.environments, before);
    this._kernels = sectionOf(kernels, answer => answer.kernels, this._kernels);
    this._jobs = sectionOf(jobs, answer => answer.jobs, this._jobs);
    this._forgetCancelled();
    this._stateChanged.emit();
    if (before.loaded && namesOf(before) !== namesOf(this._environments)) {
      this._environmentsChanged.emit();
    }
    if (environments.status === 'rejected' && jobs.status === 'rejected') {
      throw jobs.reason;
    }
  }

  private _cancelled = new Set<string>();
  private _environments: ISection<IEnvironment> = EMPTY;
  private _environmentsChanged = new Signal<this, void>(this);
  private _jobs: ISection<IJob> = EMPTY;
  private _kernels: ISection<IKernel> = EMPTY;
  private _logs: ReadonlySet<JobLog> = new Set();
  private _poll: Poll;
  private _slots = new StreamSlots();
  private _stateChanged = new Signal<this, void>(this);
  private _stopping = new Set<string>();
}

const EMPTY = { items: [], loaded: false, error: null };

function sectionOf<A, T>(
  result: PromiseSettledResult<A>,
  items: (answer: A) => T[],
  before: ISection<T>
): ISection<T> {
  return result.status === 'fulfilled'
    ? { items: items(result.value), loaded: true, error: null }
    : { ...before, error: result.reason };
}

function namesOf(section: ISection<IEnvironment>): string {
  return section.items.map(environment => environment.name).join('\n');
}

function parametersOf({ cursor, tail, follow }: ILogQuery): URLSearchParams {
  const place = cursor ? ['cursor', cursor] : ['tail', String(tail)];
  return new URLSearchParams([place, ['follow', follow ? '1' : '0']]);
}
