import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';

import type { DLEnvModel } from './model';
import type { IKernel } from './tokens';

const POLL_MS = 5000;
const POLL_MAX_MS = 300_000;
const STORAGE_KEY = 'jupyter-dlenv:announced-deaths';
const MAX_REMEMBERED = 200;

/** Where the announced deaths are kept; a browser's storage outlives the page. */
export type Memory = Pick<Storage, 'getItem' | 'setItem'>;

/** Return this browser's storage, and where a page may not have it one that forgets. */
export function browserMemory(): Memory {
  try {
    return window.localStorage;
  } catch {
    return { getItem: () => null, setItem: () => undefined };
  }
}

/** Return the name of one death: a kernel that is started again under its id can die again. */
export function deathKey(kernel: IKernel): string {
  return `${kernel.id} ${kernel.ended_at}`;
}

/** Return the deaths that are not among the known ones, those of kernels that were started again too. */
export function newDeaths(
  kernels: readonly IKernel[],
  known: Readonly<Iterable<string>>
): IKernel[] {
  const names = new Set(known);
  return kernels.filter(kernel => kernel.ended_at !== null && !names.has(deathKey(kernel)));
}

/** Return what was kept, nothing where it cannot be read. */
export function remembered(memory: Memory, key = STORAGE_KEY): string[] {
  try {
    const kept: unknown = JSON.parse(memory.getItem(key) ?? '[]');
    return Array.isArray(kept) ? kept.filter(item => typeof item === 'string') : [];
  } catch {
    return [];
  }
}

/** Keep more names, the newest of all; a browser that keeps nothing for a page is no error. */
export function remember(memory: Memory, names: readonly string[], key = STORAGE_KEY): void {
  const all = [...remembered(memory, key), ...names].slice(-MAX_REMEMBERED);
  try {
    memory.setItem(key, JSON.stringify(all));
  } catch {
    return;
  }
}

export interface IDeathWatchOptions {
  readonly model: DLEnvModel;
  readonly memory: Memory;
  /** Whether anything runs that could die. */
  readonly anyRunning: () => boolean;
  readonly announce: (kernel: IKernel) => void;
}

/** Announces each death once, in whichever page sees it first, and looks for them while the sidebar is closed. */
export class DeathWatch implements IDisposable {
  constructor(private readonly _options: IDeathWatchOptions) {
    _options.model.stateChanged.connect(this._look, this);
    this._poll = new Poll({
      name: 'jupyter-dlenv:deaths',
      factory: () => this._ask(),
      frequency: { interval: POLL_MS, backoff: true, max: POLL_MAX_MS },
      standby: 'when-hidden'
    });
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  /** Ask now: something in Jupyter's list of kernels has changed. */
  check(): void {
    this._certain = true;
    void this._poll.refresh();
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
  }

  private async _ask(): Promise<void> {
    if (this._certain || this._options.anyRunning()) {
      this._certain = false;
      await this._options.model.refreshKernels();
    }
  }

  private _look(): void {
    const { model, memory, announce } = this._options;
    const known = [...this._announced, ...remembered(memory)];
    const found = newDeaths(model.kernels.items, known);
    if (found.length > 0) {
      found.forEach(kernel => this._announced.add(deathKey(kernel)));
      remember(memory, found.map(deathKey));
      found.forEach(announce);
    }
  }

  /** Deaths that this page announced, for browsers that keep nothing. */
  private _announced = new Set<string>();
  /** Whether to ask although nothing seems to run: once at the start, and after a change. */
  private _certain = true;
  private _poll: Poll;
}
