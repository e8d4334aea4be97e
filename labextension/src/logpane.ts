import type { TranslationBundle } from '@jupyterlab/translation';
import type { Message } from '@lumino/messaging';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { Folder, WINDOW } from './folding';
import type { JobLog } from './joblog';
import { LineBuffer } from './linebuffer';
import type { ISpan } from './terminaltext';
import { parseSpans, settle } from './terminaltext';

/** Rows painted beyond each edge, so that a quick scroll shows no blank. */
const OVERSCAN_ROWS = 20;

const UNNAMED: ReadonlySet<string> = new Set(['0', 'launcher']);

/** What a scroller shows: pixels from the top, its height, and the height of one of `total` rows. */
export interface IViewport {
  readonly top: number;
  readonly height: number;
  readonly rowHeight: number;
  readonly total: number;
}

/** Return the rows to paint: `start` up to but without `end`. */
export function visibleRows(viewport: IViewport): { start: number; end: number } {
  const { top, height, rowHeight, total } = viewport;
  const first = Math.floor(top / rowHeight) - OVERSCAN_ROWS;
  const last = Math.ceil((top + height) / rowHeight) + OVERSCAN_ROWS;
  return { start: Math.max(0, Math.min(first, total)), end: Math.max(0, Math.min(last, total)) };
}

/** Return the unfinished lines in the order of ranks, prefixed and folded as whole lines are. */
export function openRows(lines: Readonly<Record<string, string>>, folds: boolean): string[] {
  const ranks = Object.keys(lines).sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  const rows = ranks.map(rank => (UNNAMED.has(rank) ? '' : `[${rank}] `) + settle(lines[rank]));
  return folds ? folded(rows) : rows;
}

/** Return the lines with equal ones of several ranks joined. */
export function folded(lines: readonly string[]): string[] {
  const buffer = new LineBuffer(lines.length);
  const folder = new Folder(buffer);
  lines.forEach(line => folder.push(line));
  return Array.from({ length: buffer.length }, (_, i) => buffer.at(i));
}

/**
 * The lines of a log, of which only those in sight are in the page.
 *
 * Follows the end until the user scrolls up, and again when the end is reached.
 */
export class LogPane extends Widget {
  constructor(
    private readonly _log: JobLog,
    trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-dlenv-LogPane');
    describe(this._scroller, trans);
    this._space.append(this._rows);
    this._scroller.append(this._space);
    this.node.append(this._scroller, this._open);
    _log.changed.connect(this._schedule, this);
  }

  get following(): boolean {
    return this._following;
  }

  set following(value: boolean) {
    if (value !== this._following) {
      this._following = value;
      this._followingChanged.emit();
      this._schedule();
    }
  }

  get followingChanged(): ISignal<this, void> {
    return this._followingChanged;
  }

  handleEvent(event: Event): void {
    if (event.type === 'wheel') {
      this._onWheel(event as WheelEvent);
    } else {
      this._onScroll();
    }
  }

  override dispose(): void {
    cancelAnimationFrame(this._frame);
    Signal.clearData(this);
    super.dispose();
  }

  protected override onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    this._scroller.addEventListener('scroll', this);
    this._scroller.addEventListener('wheel', this, { passive: true });
    this._schedule();
  }

  protected override onBeforeDetach(msg: Message): void {
    this._scroller.removeEventListener('scroll', this);
    this._scroller.removeEventListener('wheel', this);
    super.onBeforeDetach(msg);
  }

  protected override onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._schedule();
  }

  protected override onResize(msg: Widget.ResizeMessage): void {
    super.onResize(msg);
    this._schedule();
  }

  /** The wheel turns before the page scrolls: a fast log would pull the user back to the end in between. */
  private _onWheel(event: WheelEvent): void {
    if (event.deltaY < 0 && this._scroller.scrollTop > 0) {
      this.following = false;
    }
  }

  private _onScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this._scroller;
    if (scrollTop < this._top) {
      this.following = false;
    } else if (scrollTop > this._top && scrollHeight - clientHeight - scrollTop < this._rowHeight) {
      this.following = true;
    }
    this._top = scrollTop;
    this._schedule();
  }

  private _schedule(): void {
    this._frame ||= requestAnimationFrame(() => {
      this._frame = 0;
      if (this.isVisible) {
        this._paint();
      }
    });
  }

  private _paint(): void {
    const { lines, openLines, folds } = this._log;
    this._rowHeight ||= this._measure();
    this._space.style.height = `${lines.length * this._rowHeight}px`;
    this._paintOpen(openRows(openLines, folds));
    this._place(lines.first);
    const { start, end } = visibleRows({
      top: this._top,
      height: this._scroller.clientHeight,
      rowHeight: this._rowHeight,
      total: lines.length
    });
    this._rows.style.transform = `translateY(${start * this._rowHeight}px)`;
    this._paintRows(lines, lines.first + start, lines.first + end);
  }

  /** Go to the end, or keep the same lines in sight when older ones went. */
  private _place(first: number): void {
    if (this._following) {
      this._scroller.scrollTop = this._scroller.scrollHeight;
    } else if (first > this._first) {
      this._scroller.scrollTop = this._top - (first - this._first) * this._rowHeight;
    }
    this._first = first;
    this._top = this._scroller.scrollTop;
  }

  /** Lines change by folding only, so else equal numbers are equal rows; to leave them alone keeps a selection. */
  private _paintRows(lines: LineBuffer, from: number, to: number): void {
    const foldable = to > lines.end - WINDOW;
    const key = `${from}-${to} ${foldable ? lines.replaced : ''}`;
    if (key !== this._painted) {
      const numbers = Array.from({ length: to - from }, (_, i) => from + i);
      this._rows.replaceChildren(...numbers.map(number => rowNode(lines.at(number))));
      this._painted = key;
    }
  }

  private _paintOpen(texts: readonly string[]): void {
    this._open.replaceChildren(...texts.map(rowNode));
    this._open.hidden = texts.length === 0;
  }

  private _measure(): number {
    const probe = rowNode('0');
    this._rows.append(probe);
    const { height } = probe.getBoundingClientRect();
    probe.remove();
    return height;
  }

  private _first = 0;
  private _following = true;
  private _followingChanged = new Signal<this, void>(this);
  private _frame = 0;
  private _open = element('jp-dlenv-LogPane-open');
  private _painted = '';
  private _rowHeight = 0;
  private _rows = element('jp-dlenv-LogPane-rows');
  private _scroller = element('jp-dlenv-LogPane-lines');
  private _space = element('jp-dlenv-LogPane-space');
  private _top = 0;
}

function element(className: string): HTMLDivElement {
  const node = document.createElement('div');
  node.className = className;
  return node;
}

/** Screen readers find the log and read it on demand; announcing thousands of lines would silence all else. */
function describe(scroller: HTMLElement, trans: TranslationBundle): void {
  scroller.setAttribute('role', 'log');
  scroller.setAttribute('aria-live', 'off');
  scroller.setAttribute('aria-label', trans.__('Log'));
  scroller.tabIndex = 0;
  // Arrow keys scroll the log instead of selecting another cell.
  scroller.dataset.lmSuppressShortcuts = 'true';
}

function rowNode(line: string): HTMLDivElement {
  const row = element('jp-dlenv-LogPane-row');
  for (const span of parseSpans(line)) {
    const plain = span.styles.length === 0 && !span.color && !span.background;
    row.append(plain ? span.text : spanNode(span));
  }
  return row;
}

function spanNode({ text, styles, color, background }: ISpan): HTMLSpanElement {
  const span = document.createElement('span');
  span.textContent = text;
  span.className = styles.map(style => `jp-dlenv-ansi-${style}`).join(' ');
  span.style.color = color ?? '';
  span.style.backgroundColor = background ?? '';
  return span;
}
