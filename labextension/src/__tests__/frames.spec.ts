import type { IFrame } from '../frames';
import { FrameParser } from '../frames';

const encoder = new TextEncoder();

function bytesOf(header: object, body: string): Uint8Array {
  const bytes = encoder.encode(body);
  return encoder.encode(JSON.stringify({ ...header, bytes: bytes.length }) + '\n' + body);
}

function textOf(frame: IFrame): string {
  return new TextDecoder().decode(frame.body);
}

const FIRST = bytesOf(
  { cursor: 'a', state: 'RUNNING', open_lines: { '1': '50 %' } },
  '训练 1\n\n2\n'
);
const LAST = bytesOf(
  { cursor: 'b', state: 'SUCCEEDED', job: { id: 'j', state: 'SUCCEEDED' } },
  '{"bytes": 1}\n'
);

describe('FrameParser', () => {
  it.each([1, 2, 3, 7, 1000])('finds the same frames in chunks of %i bytes', size => {
    const all = Uint8Array.from([...FIRST, ...LAST]);
    const parser = new FrameParser();
    const frames: IFrame[] = [];
    for (let at = 0; at < all.length; at += size) {
      frames.push(...parser.push(all.subarray(at, at + size)));
    }
    expect(
      frames.map(({ cursor, state, openLines, job }) => ({ cursor, state, openLines, job }))
    ).toEqual([
      { cursor: 'a', state: 'RUNNING', openLines: { '1': '50 %' }, job: null },
      { cursor: 'b', state: 'SUCCEEDED', openLines: {}, job: { id: 'j', state: 'SUCCEEDED' } }
    ]);
    expect(frames.map(textOf)).toEqual(['训练 1\n\n2\n', '{"bytes": 1}\n']);
  });

  it('reads what a pending job waits for', () => {
    const header = { cursor: 'a', state: 'PENDING' };
    const bytes = [bytesOf({ ...header, message: 'Waits.' }, ''), bytesOf(header, '')];
    const frames = bytes.flatMap(each => new FrameParser().push(each));
    expect(frames.map(({ message }) => message)).toEqual(['Waits.', '']);
  });

  it('gives out a frame without a body at once', () => {
    const frames = new FrameParser().push(bytesOf({ cursor: 'a', state: 'PENDING' }, ''));
    expect(frames.map(textOf)).toEqual(['']);
  });

  it('holds an unfinished frame back', () => {
    expect(new FrameParser().push(FIRST.subarray(0, FIRST.length - 1))).toEqual([]);
  });

  it.each([
    '<html>\n',
    'null\n',
    '{"cursor":"a","state":"RUNNING"}\n',
    '{"cursor":"a","state":"RUNNING","bytes":-1}\n'
  ])('refuses %j', text => {
    expect(() => new FrameParser().push(encoder.encode(text))).toThrow(SyntaxError);
  });
});
