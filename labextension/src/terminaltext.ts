/** A run of characters in one style. */
export interface ISpan {
  readonly text: string;
  /** Style names: `bold`, `dim`, `italic`, `underline`, `inverse`, `red`, ... */
  readonly styles: readonly string[];
}

/** Characters of a line that are kept: a page that lays out a megabyte in one row freezes. */
export const MAX_LINE_CHARS = 4000;

const COLORS = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'];
const ATTRIBUTES: Readonly<Record<number, string>> = {
  1: 'bold',
  2: 'dim',
  3: 'italic',
  4: 'underline',
  7: 'inverse'
};
const ENDS: Readonly<Record<number, readonly string[]>> = {
  22: ['bold', 'dim'],
  23: ['italic'],
  24: ['underline'],
  27: ['inverse'],
  39: COLORS
};

// CSI sequences (parameters and final byte captured), OSC strings, other escapes, stray control characters.
const CONTROL =
  // eslint-disable-next-line no-control-regex -- control characters are what this finds
  /\x1b\[([0-?]*)[ -/]*([@-~]?)|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]/g;

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
  const styles = new Set<string>();
  let start = 0;
  const flush = (end: number) => {
    if (end > start) {
      spans.push({ text: line.slice(start, end), styles: [...styles] });
    }
  };
  for (const match of line.matchAll(CONTROL)) {
    flush(match.index);
    start = match.index + match[0].length;
    if (match[2] === 'm') {
      applySgr(match[1], styles);
    }
  }
  flush(line.length);
  return spans;
}

function applySgr(parameters: string, styles: Set<string>): void {
  const codes = parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const more = extendedColorLength(codes, i);
    if (more === 0) {
      applyCode(codes[i], styles);
    }
    i += more;
  }
}

/** Return how many codes after this one belong to a 256-colour or true-colour choice, which a theme cannot honour. */
function extendedColorLength(codes: readonly number[], i: number): number {
  if (codes[i] !== 38 && codes[i] !== 48) {
    return 0;
  }
  return { 5: 2, 2: 4 }[codes[i + 1]] ?? 0;
}

function applyCode(code: number, styles: Set<string>): void {
  const color = COLORS[code >= 90 ? code - 90 : code - 30];
  if (code === 0) {
    styles.clear();
  } else if (ATTRIBUTES[code]) {
    styles.add(ATTRIBUTES[code]);
  } else if (ENDS[code]) {
    ENDS[code].forEach(style => styles.delete(style));
  } else if (color) {
    COLORS.forEach(other => styles.delete(other));
    styles.add(color);
  }
}
