/**
 * The last lines of a log, at most `capacity` of them.
 *
 * Lines are numbered from 0 as they come; `first` is the number of the oldest that is still here.
 */
export class LineBuffer {
  constructor(readonly capacity: number) {}

  get first(): number {
    return this._end - this.length;
  }

  get end(): number {
    return this._end;
  }

  get length(): number {
    return this._lines.length;
  }

  /** How often a line that was here already was replaced. */
  get replaced(): number {
    return this._replaced;
  }

  push(line: string): void {
    if (this._lines.length < this.capacity) {
      this._lines.push(line);
    } else {
      this._lines[this._end % this.capacity] = line;
    }
    this._end += 1;
  }

  /** Put a line in the place of the one with that number, if it is still here. */
  replace(number: number, line: string): void {
    if (this._has(number)) {
      this._lines[number % this.capacity] = line;
      this._replaced += 1;
    }
  }

  /** Return the line with that number; the empty string when it is not here. */
  at(number: number): string {
    return this._has(number) ? this._lines[number % this.capacity] : '';
  }

  private _has(number: number): boolean {
    return number >= this.first && number < this._end;
  }

  private _end = 0;
  private _lines: string[] = [];
  private _replaced = 0;
}
