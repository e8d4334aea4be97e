/** A job's metrics as the REST API serves them. */
export interface IMetrics {
  /** Names; `epoch`, `step` and `rank` say where a row belongs, the others are metrics. */
  readonly columns: readonly string[];
  /** Values in the order of the columns, null where a row has none. */
  readonly rows: readonly (readonly unknown[])[];
  /** What is missing from the table and why, in sentences; empty or absent where nothing is. */
  readonly note?: string;
}

/** One metric as points from 0 to 1 in both directions. */
export interface ISeries {
  readonly name: string;
  readonly points: readonly Point[];
  readonly least: number;
  readonly most: number;
  readonly last: number;
}

type Point = readonly [number, number];

/** Lines that can be told apart by their colours. */
export const MAX_SERIES = 6;

const PLACES: ReadonlySet<string> = new Set(['epoch', 'step', 'rank']);
const MAX_POINTS = 300;
const MAX_NUMBER = 1e300;

/**
 * Return the metrics of each rank that hold numbers.
 *
 * Each is drawn between its own least and largest value: a loss and an accuracy have no scale in common.
 */
export function seriesOf({ columns, rows }: IMetrics): ISeries[] {
  const places = placesOf(rows.map(row => row[columns.indexOf('step')]));
  const ranks = rows.map(row => row[columns.indexOf('rank')]);
  const found = new Map<string, Point[]>();
  columns.forEach((name, column) => {
    rows.forEach((row, i) => {
      const value = row[column];
      if (!PLACES.has(name) && isNumber(value)) {
        const line = ranks[i] ? `[${ranks[i]}] ${name}` : name;
        found.set(line, found.get(line) ?? []);
        found.get(line)?.push([places[i], value]);
      }
    });
  });
  return [...found].slice(0, MAX_SERIES).map(([name, pairs]) => oneSeries(name, pairs));
}

function oneSeries(name: string, pairs: readonly Point[]): ISeries {
  const values = pairs.map(([, value]) => value);
  const least = values.reduce((a, b) => Math.min(a, b));
  const most = values.reduce((a, b) => Math.max(a, b));
  const span = most - least;
  const step = Math.ceil(pairs.length / MAX_POINTS);
  const newest = pairs.length - 1;
  const points = pairs
    .filter((_pair, i) => (newest - i) % step === 0)
    .map(([x, value]): Point => [x, span > 0 ? (value - least) / span : 0.5]);
  return { name, points, least, most, last: values[newest] };
}

/** Return where each row stands from left to right: by its step if steps only grow, else in its turn. */
function placesOf(steps: readonly unknown[]): number[] {
  const known = steps.filter(isNumber);
  const grows =
    known.length === steps.length && known.every((step, i) => i === 0 || step >= known[i - 1]);
  const shown = grows ? known : steps.map((_step, turn) => turn);
  const width = shown.length > 0 ? shown[shown.length - 1] - shown[0] : 0;
  return shown.map(step => (width > 0 ? (step - shown[0]) / width : 0.5));
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Math.abs(value) < MAX_NUMBER;
}
