/** A run of characters in one style. */
export interface ISpan {
  readonly text: string;
  /** Style names: `bold`, `dim`, `italic`, `underline`, `strike`, `inverse`, and the theme's `red`, `on-red`, ... */
  readonly styles: readonly string[];
  /** Colours that are no theme's, as `#rrggbb`. */
  readonly color?: string;
  readonly background?: string;
}

/** Characters of a line that are kept: a page that lays out a megabyte in one row freezes. */
export const MAX_LINE_CHARS = 4000;

const COLORS = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'];
const ATTRIBUTES: Readonly<Record<number, string>> = {
  1: 'bold',
  2: 'dim',
  3: 'italic',
  4: 'underline',
  7: 'inverse',
  9: 'strike'
};
const ENDS: Readonly<Record<number, readonly string[]>> = {
  22: ['bold', 'dim'],
  23: ['italic'],
  24: ['underline'],
  27: ['inverse'],
  29: ['strike']
};
const CUBE = [0, 95, 135, 175, 215, 255];

// CSI sequences (parameters and final byte captured), strings (OSC, DCS and their like), other escapes, and control
// characters of both ranges.
const CONTROL =
  // eslint-disable-next-line no-control-regex -- control characters are what this finds
  /(?:\x1b\[|\x9b)([0-?]*)[ -/]*([@-~]?)|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;

/** Return what a terminal shows of a line whose carriage returns went back to its start, not too much of it. */
export function settle(line: string): string {
  const shown = line.includes('\r') ? lastWritten(line) : line;
  return shown.length > MAX_LINE_CHARS ? shown.slice(0, MAX_LINE_CHARS) + '…' : shown;
}

function lastWritten(line: string): string {
  return (
    line
      .split('\r')
      .reverse()
      .find(part => part.length > 0) ?? ''
  );
}

/** Return the line as styled runs of text; what a page cannot show is dropped. */
export function parseSpans(line: string): ISpan[] {
  const spans: ISpan[] = [];
  const style = new Style();
  let start = 0;
  const flush = (end: number) => {
    if (end > start) {
      spans.push({ text: line.slice(start, end), ...style.now() });
    }
  };
  for (const match of line.matchAll(CONTROL)) {
    flush(match.index);
    start = match.index + match[0].length;
    if (match[2] === 'm') {
      style.apply(match[1]);
    }
  }
  flush(line.length);
  return spans;
}

/** What the SGR sequences so far have set. */
class Style {
  now(): Omit<ISpan, 'text'> {
    const own = { color: this._own[0], background: this._own[1] };
    return {
      styles: [...this._attributes, ...this._named.filter(name => name)],
      ...(own.color && { color: own.color }),
      ...(own.background && { background: own.background })
    };
  }

  apply(parameters: string): void {
    const codes = codesOf(parameters);
    for (let code = codes.shift(); code !== undefined; code = codes.shift()) {
      if (code === 38 || code === 48) {
        this._extended(code === 38 ? 0 : 1, codes);
      } else {
        this._code(code);
      }
    }
  }

  private _code(code: number): void {
    if (code === 0) {
      this._attributes.clear();
      this._choose(0, '');
      this._choose(1, '');
    } else if (ATTRIBUTES[code]) {
      this._attributes.add(ATTRIBUTES[code]);
    } else if (ENDS[code]) {
      ENDS[code].forEach(name => this._attributes.delete(name));
    } else if (code === 39 || code === 49) {
      this._choose(code === 39 ? 0 : 1, '');
    } else {
      this._basic(code);
    }
  }

  private _basic(code: number): void {
    const text = COLORS[code >= 90 ? code - 90 : code - 30];
    const background = COLORS[code >= 100 ? code - 100 : code - 40];
    if (text) {
      this._choose(0, text);
    } else if (background) {
      this._choose(1, background);
    }
  }

  /** Take the codes after 38 or 48 and set the colour that they choose. */
  private _extended(layer: 0 | 1, codes: number[]): void {
    const kind = codes.shift();
    if (kind === 5) {
      const number = byte(codes.shift());
      if (number < 16) {
        this._choose(layer, COLORS[number % 8]);
      } else {
        this._choose(layer, '', paletteColor(number));
      }
    } else if (kind === 2) {
      const parts = codes.splice(0, 3);
      this._choose(layer, '', hex(parts[0], parts[1], parts[2]));
    }
  }

  private _choose(layer: 0 | 1, name: string, own = ''): void {
    this._named[layer] = name && layer === 1 ? `on-${name}` : name;
    this._own[layer] = own;
  }

  private _attributes = new Set<string>();
  private _named = ['', ''];
  private _own = ['', ''];
}

/** Return the numbers of an SGR sequence, a colour in its form with colons as in the one without. */
function codesOf(parameters: string): number[] {
  return parameters.split(';').flatMap(part => {
    const numbers = part.split(':').map(Number);
    if (numbers[0] === 38 || numbers[0] === 48) {
      return numbers.length > 3 ? [...numbers.slice(0, 2), ...numbers.slice(-3)] : numbers;
    }
    return part === '4:0' ? [24] : [numbers[0] || 0];
  });
}

/** Return a colour of the 240 that no theme defines. */
function paletteColor(number: number): string {
  if (number >= 232) {
    const gray = 8 + 10 * (number - 232);
    return hex(gray, gray, gray);
  }
  const cube = number - 16;
  return hex(CUBE[Math.floor(cube / 36)], CUBE[Math.floor(cube / 6) % 6], CUBE[cube % 6]);
}

function byte(code: number | undefined): number {
  return Math.min(code || 0, 255);
}

function hex(...parts: (number | undefined)[]): string {
  return '#' + parts.map(part => byte(part).toString(16).padStart(2, '0')).join('');
}
