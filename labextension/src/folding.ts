import type { LineBuffer } from './linebuffer';

/** How many of the last lines another rank's line may join. */
export const WINDOW = 100;

const PREFIX = /^\[([1-9][0-9]{0,4})\] /;
const BRACKET = 91;

/** Return the rank that a line's prefix names, 0 without one, and the rest of the line. */
export function parted(line: string): [number, string] {
  const match = line.charCodeAt(0) === BRACKET ? PREFIX.exec(line) : null;
  return match ? [Number(match[1]), line.slice(match[0].length)] : [0, line];
}

/** Return numbers as a set: `0,2-3`. */
export function rankSet(ranks: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const rank of [...ranks].sort((a, b) => a - b)) {
    const last = runs[runs.length - 1];
    if (last?.[1] === rank - 1) {
      last[1] = rank;
    } else {
      runs.push([rank, rank]);
    }
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(',');
}

/**
 * Puts lines into a buffer, equal ones of several ranks as one: `[0-3] epoch 1`.
 *
 * A line joins the first equal one among the last {@link WINDOW} that comes after all that its own rank has a part in,
 * so the lines of each rank keep their order. What a notebook holds as text is folded by the same rule.
 */
export class Folder {
  constructor(private readonly _lines: LineBuffer) {}

  push(line: string): void {
    const [rank, text] = parted(line);
    const after = this._newest.get(rank) ?? -1;
    const same = this._places.get(text);
    const place = same?.find(number => number > after);
    if (place === undefined) {
      this._append(line, rank, text, same);
    } else {
      this._join(place, rank, text);
    }
  }

  private _append(line: string, rank: number, text: string, same: number[] | undefined): void {
    const place = this._lines.end;
    this._lines.push(line);
    this._newest.set(rank, place);
    this._recent.push({ text, ranks: [rank] });
    if (same) {
      same.push(place);
    } else {
      this._places.set(text, [place]);
    }
    if (this._recent.length > WINDOW) {
      this._forget();
    }
  }

  private _join(place: number, rank: number, text: string): void {
    const { ranks } = this._recent[this._recent.length - (this._lines.end - place)];
    ranks.push(rank);
    this._newest.set(rank, place);
    this._lines.replace(place, `[${rankSet(ranks)}] ${text}`);
  }

  private _forget(): void {
    const text = this._recent.shift()?.text ?? '';
    const later = this._places.get(text)?.slice(1) ?? [];
    if (later.length > 0) {
      this._places.set(text, later);
    } else {
      this._places.delete(text);
    }
  }

  /** The last place that a rank has a part in. */
  private _newest = new Map<number, number>();
  /** Where each recent text stands, in order. */
  private _places = new Map<string, number[]>();
  private _recent: { readonly text: string; readonly ranks: number[] }[] = [];
}
