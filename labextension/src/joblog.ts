import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import { Folder } from './folding';
import type { IFrame } from './frames';
import { FrameParser } from './frames';
import { LineBuffer } from './linebuffer';
import { ApiError } from './request';
import { settle } from './terminaltext';
import type { IJob, JobState } from './tokens';
import { hasEnded } from './tokens';

const CAPACITY_LINES = 20_000;
const TAIL_BYTES = 4 << 20;
const POLL_MS = 1000;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
const NEWLINE = 10;
/** How long frames are read in one go before the page gets its turn. */
const TURN_MS = 10;

/** Where to start reading a log, and whether to stay until the job has ended. */
export interface ILogQuery {
  /** Empty for the last {@link ILogQuery.tail} bytes. */
  readonly cursor: string;
  readonly tail: number;
  readonly follow: boolean;
}

/** Where a {@link JobLog} reads from. */
export interface ILogSource {
  job(): Promise<IJob>;
  open(query: ILogQuery, signal: AbortSignal): Promise<ReadableStream<Uint8Array>>;
}

/** `missing`: the server does not know the job. */
export type LogPhase = 'idle' | 'reading' | 'retrying' | 'ended' | 'missing';

/**
 * How many logs of this page may hold a connection open.
 *
 * A browser allows six HTTP/1.1 connections to a server, for everything that JupyterLab asks; logs beyond the limit
 * are asked for again and again instead.
 */
export class StreamSlots {
  constructor(private _free = 3) {}

  /** Return whether a slot was free, which is then the caller's until `give`. */
  take(): boolean {
    const taken = this._free > 0;
    this._free -= taken ? 1 : 0;
    return taken;
  }

  give(): void {
    this._free += 1;
  }
}

/** The log of one job, read while somebody looks at it: `start` goes on where `pause` stopped. */
export class JobLog implements IDisposable {
  constructor(
    readonly jobId: string,
    private readonly _source: ILogSource,
    private readonly _slots: StreamSlots
  ) {}

  readonly lines = new LineBuffer(CAPACITY_LINES);

  /** Emitted after every change; as often as bytes come, so paint in animation frames. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Null until the server described it. */
  get job(): IJob | null {
    return this._job;
  }

  get state(): JobState | null {
    return this._state;
  }

  /** What a pending job waits for; empty in every other state. */
  get waitsFor(): string {
    return this._state === 'PENDING' ? this._waitsFor : '';
  }

  get openLines(): Readonly<Record<string, string>> {
    return this._openLines;
  }

  get phase(): LogPhase {
    return this._phase;
  }

  /** Why the phase is `retrying` or `missing`. */
  get error(): unknown {
    return this._error;
  }

  /** Whether older lines are not here. */
  get shortened(): boolean {
    return this._late || this.lines.first > 0;
  }

  /** Whether somebody wants to see it: true between `start` and `pause`. */
  get isRead(): boolean {
    return this._abort !== null;
  }

  /** Whether several processes write the log, whose equal lines are shown as one. */
  get folds(): boolean {
    return (this._job?.nodes ?? 0) * (this._job?.nproc ?? 0) !== 1;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  start(): void {
    if (!this._abort && !this._settled && !this._disposed) {
      this._abort = new AbortController();
      void this._run(this._abort.signal);
    }
  }

  pause(): void {
    this._abort?.abort();
    this._abort = null;
  }

  dispose(): void {
    this._disposed = true;
    this.pause();
    Signal.clearData(this);
  }

  private get _settled(): boolean {
    return this._phase === 'ended' || this._phase === 'missing';
  }

  private async _run(signal: AbortSignal): Promise<void> {
    let delay = FIRST_RETRY_MS;
    while (!signal.aborted && !this._settled) {
      const before = this._cursor;
      try {
        await this._round(signal);
        delay = FIRST_RETRY_MS;
      } catch (error) {
        if (signal.aborted) {
          return;
        }
        delay = this._cursor === before ? Math.min(2 * delay, LAST_RETRY_MS) : FIRST_RETRY_MS;
        await this._fail(error, delay, signal);
      }
    }
  }

  private async _round(signal: AbortSignal): Promise<void> {
    if (!this._job) {
      this._job = await this._source.job();
      this._state = this._job.state;
      this._attempt = this._job.attempt ?? 0;
      this._waitsFor = this._job.message;
      this._late = this._job.log_bytes > TAIL_BYTES;
      this._emit();
    }
    const seenEnd = hasEnded(this._job.state);
    const taken = this._slots.take();
    try {
      // A followed log of an ended job ends by itself, so it may go over the limit.
      await this._read(taken || seenEnd, signal);
    } finally {
      if (taken) {
        this._slots.give();
      }
    }
    if (!taken && !seenEnd) {
      await sleep(POLL_MS, signal);
    }
  }

  private async _read(follow: boolean, signal: AbortSignal): Promise<void> {
    const query = { cursor: this._cursor, tail: TAIL_BYTES, follow };
    const reader = (await this._source.open(query, signal)).getReader();
    try {
      await this._readFrames(reader, signal);
    } finally {
      void reader.cancel().catch(() => undefined);
    }
    if (follow && !this._settled) {
      throw new ApiError(0, 'Unreachable', 'the log broke off');
    }
  }

  private async _readFrames(
    reader: ReadableStreamDefaultReader<Uint8Array>,
    signal: AbortSignal
  ): Promise<void> {
    const parser = new FrameParser();
    let begin = performance.now();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      for (const frame of parser.push(value)) {
        // A newer run may have gone on from the last cursor while this one waited.
        signal.throwIfAborted();
        await this._accept(frame);
        if (performance.now() - begin > TURN_MS) {
          await nextTurn();
          begin = performance.now();
        }
      }
    }
  }

  private async _accept(frame: IFrame): Promise<void> {
    this._cursor = frame.cursor;
    this._openLines = frame.openLines;
    // The last frame of an answer that does not follow the log repeats no message.
    this._waitsFor = frame.message || this._waitsFor;
    this._push(frame.body);
    if (frame.job) {
      this._job = frame.job;
      this._phase = 'ended';
      this._state = frame.job.state;
    } else {
      this._phase = 'reading';
      await this._enter(frame);
    }
    this._error = null;
    this._emit();
  }

  /** A new state or attempt comes with new times, which frames do not carry. */
  private async _enter({ state, attempt }: IFrame): Promise<void> {
    if (state !== this._state || attempt > this._attempt) {
      this._job = await this._source.job();
      this._state = state;
      this._attempt = attempt;
    }
  }

  private _push(body: Uint8Array): void {
    const into = this.folds ? this._folder : this.lines;
    lastLines(body, this.lines.capacity).forEach(line => into.push(settle(line)));
  }

  private async _fail(error: unknown, delay: number, signal: AbortSignal): Promise<void> {
    this._error = error;
    this._phase = error instanceof ApiError && error.status === 404 ? 'missing' : 'retrying';
    this._emit();
    if (!this._settled) {
      await sleep(delay, signal);
    }
  }

  private _emit(): void {
    if (!this._disposed) {
      this._changed.emit();
    }
  }

  private _abort: AbortController | null = null;
  private _attempt = 0;
  private _changed = new Signal<this, void>(this);
  private _cursor = '';
  private _disposed = false;
  private _error: unknown = null;
  private _folder = new Folder(this.lines);
  private _job: IJob | null = null;
  private _late = false;
  private _openLines: Readonly<Record<string, string>> = {};
  private _phase: LogPhase = 'idle';
  private _state: JobState | null = null;
  private _waitsFor = '';
}

/** Return the last lines of a frame; those that nobody will see are not even decoded. */
export function lastLines(body: Uint8Array, most: number): string[] {
  const end = body[body.length - 1] === NEWLINE ? body.length - 1 : body.length;
  let start = end;
  for (let count = 0; count < most && start >= 0; count++) {
    start = start > 0 ? body.lastIndexOf(NEWLINE, start - 1) : -1;
  }
  return body.length > 0 ? new TextDecoder().decode(body.subarray(start + 1, end)).split('\n') : [];
}

/** Resolve after what waits to be done in the page: input, painting. A timer would wait for longer in a hidden page. */
function nextTurn(): Promise<void> {
  return new Promise(resolve => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Resolve after that many milliseconds, or at once when the signal aborts. */
function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const wake = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', wake);
      resolve();
    };
    const timer = setTimeout(wake, milliseconds);
    signal.addEventListener('abort', wake);
  });
}
