import { LineBuffer } from '../linebuffer';

function contents(buffer: LineBuffer): string[] {
  return Array.from({ length: buffer.length }, (_, i) => buffer.at(buffer.first + i));
}

describe('LineBuffer', () => {
  it('keeps the last lines and their numbers', () => {
    const buffer = new LineBuffer(3);
    ['a', 'b', 'c', 'd', 'e'].forEach(line => buffer.push(line));
    expect([buffer.first, buffer.end, buffer.length]).toEqual([2, 5, 3]);
    expect(contents(buffer)).toEqual(['c', 'd', 'e']);
  });

  it('puts a line in the place of one that is still there', () => {
    const buffer = new LineBuffer(2);
    ['a', 'b', 'c'].forEach(line => buffer.push(line));
    [0, 2, 3].forEach(number => buffer.replace(number, 'new'));
    expect([contents(buffer), buffer.replaced]).toEqual([['b', 'new'], 1]);
  });

  it('has nothing outside of what it keeps', () => {
    const buffer = new LineBuffer(2);
    ['a', 'b', 'c'].forEach(line => buffer.push(line));
    expect([buffer.at(0), buffer.at(3), buffer.at(-1)]).toEqual(['', '', '']);
  });
});
