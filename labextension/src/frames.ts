import type { IJob, JobState } from './tokens';

/** A piece of a log: whole lines as raw bytes, and where the log stands after them. */
export interface IFrame {
  /** Where to go on after this frame; opaque. */
  readonly cursor: string;
  readonly state: JobState;
  /** What a pending job waits for; empty otherwise. */
  readonly message: string;
  /** Text of each rank's unfinished line (a progress bar), by rank. */
  readonly openLines: Readonly<Record<string, string>>;
  /** The job, in the last frame of a followed log only. */
  readonly job: IJob | null;
  readonly body: Uint8Array;
  /** Which attempt of the job runs, 0 when nobody says. */
  readonly attempt: number;
}

interface IHeader {
  cursor: string;
  bytes: number;
  state: JobState;
  message?: string;
  open_lines?: Record<string, string>;
  job?: IJob;
  attempt?: number;
}

const NEWLINE = 10;
const MAX_HEADER_BYTES = 1 << 22;
const MAX_BODY_BYTES = 1 << 28;

/**
 * Cuts a byte stream into frames: a line of JSON, then as many raw bytes as it says.
 *
 * A frame comes out only when all of it is there, so that after a broken connection its predecessor's cursor repeats
 * nothing and skips nothing.
 */
export class FrameParser {
  /**
   * Return the frames that the chunk completes.
   *
   * @throws SyntaxError when the bytes are not frames.
   */
  push(chunk: Uint8Array): IFrame[] {
    const frames: IFrame[] = [];
    let rest = chunk;
    while (rest.length > 0) {
      rest = this._header ? this._takeBody(rest) : this._takeHeader(rest);
      if (this._header && this._filled === this._body.length) {
        frames.push(frameOf(this._header, this._body));
        this._header = null;
      }
    }
    return frames;
  }

  private _takeHeader(bytes: Uint8Array): Uint8Array {
    const end = bytes.indexOf(NEWLINE);
    const length = end < 0 ? bytes.length : end;
    this._line += this._decoder.decode(bytes.subarray(0, length), { stream: end < 0 });
    if (this._line.length > MAX_HEADER_BYTES) {
      throw new SyntaxError('A frame has no header.');
    }
    if (end < 0) {
      return bytes.subarray(length);
    }
    this._header = parseHeader(this._line);
    this._line = '';
    this._body = new Uint8Array(this._header.bytes);
    this._filled = 0;
    return bytes.subarray(end + 1);
  }

  private _takeBody(bytes: Uint8Array): Uint8Array {
    const part = bytes.subarray(0, this._body.length - this._filled);
    this._body.set(part, this._filled);
    this._filled += part.length;
    return bytes.subarray(part.length);
  }

  private _body = new Uint8Array(0);
  private _decoder = new TextDecoder();
  private _filled = 0;
  private _header: IHeader | null = null;
  private _line = '';
}

function parseHeader(line: string): IHeader {
  const header: unknown = JSON.parse(line);
  if (!isHeader(header)) {
    throw new SyntaxError('A frame has a wrong header.');
  }
  return header;
}

function isHeader(value: unknown): value is IHeader {
  const { bytes, cursor, state } = (value ?? {}) as Partial<IHeader>;
  const sized = Number.isInteger(bytes) && Number(bytes) >= 0 && Number(bytes) <= MAX_BODY_BYTES;
  return sized && typeof cursor === 'string' && typeof state === 'string';
}

function frameOf(header: IHeader, body: Uint8Array): IFrame {
  return {
    cursor: header.cursor,
    state: header.state,
    message: header.message ?? '',
    openLines: header.open_lines ?? {},
    job: header.job ?? null,
    attempt: header.attempt ?? 0,
    body
  };
}
