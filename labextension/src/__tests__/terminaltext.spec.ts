import { readFileSync } from 'fs';
import { join } from 'path';

import { MAX_LINE_CHARS, parseSpans, settle } from '../terminaltext';

const ESC = '\x1b';
const CASES = join(__dirname, '../../../tests/notebook/terminal.json');

describe('settle', () => {
  it.each([
    ['plain', 'plain'],
    ['windows\r', 'windows'],
    ['  0%\r 50%\r100%', '100%'],
    ['  0%\r 50%\r100%\r', '100%'],
    ['\r', '']
  ])('shows %j as %j', (line, shown) => {
    expect(settle(line)).toBe(shown);
  });

  it('cuts what no page can lay out', () => {
    expect(settle('x'.repeat(MAX_LINE_CHARS + 1))).toHaveLength(MAX_LINE_CHARS + 1);
    expect(settle('x'.repeat(1_000_000)).endsWith('x…')).toBe(true);
  });
});

describe('parseSpans', () => {
  it.each([
    ['plain', [['plain']]],
    ['', []],
    [`${ESC}[31merror${ESC}[0m: no`, [['error', 'red'], [': no']]],
    [
      `${ESC}[1;92mok${ESC}[22m so${ESC}[m far`,
      [['ok', 'bold', 'green'], [' so', 'green'], [' far']]
    ],
    [`${ESC}[31ma${ESC}[34mb${ESC}[39mc`, [['a', 'red'], ['b', 'blue'], ['c']]],
    [`${ESC}[9;41mx${ESC}[29;49my`, [['x', 'strike', 'on-red'], ['y']]],
    [`${ESC}[38;5;9;48;5;2mx`, [['x', 'red', 'on-green']]],
    [`${ESC}[2K${ESC}[?25lloss${ESC}[1A 0.1`, [['loss'], [' 0.1']]],
    [`${ESC}]8;;file:///x${ESC}\\link${ESC}]8;;\x07!`, [['link'], ['!']]],
    ['bell\x07\x00 tab\t', [['bell'], [' tab\t']]],
    [`cut ${ESC}[3`, [['cut ']]]
  ])('reads %j', (line, expected) => {
    expect(parseSpans(line).map(({ text, styles }) => [text, ...styles])).toEqual(expected);
  });

  it.each([
    ['[38;5;196mx', { color: '#ff0000' }],
    ['[38;5;244mx', { color: '#808080' }],
    ['[48;2;1;31;4mx', { background: '#011f04' }],
    ['[38:2::1:2:255mx', { color: '#0102ff' }],
    ['[38;5;196;48;5;21mx', { color: '#ff0000', background: '#0000ff' }],
    ['[38;5;196;39mx', {}],
    ['[38;5;196;0mx', {}],
    ['[38;2;1mx', { color: '#010000' }],
    ['[38mx', {}]
  ])('gives %j its own colours', (sequence, colors) => {
    expect(parseSpans(ESC + sequence)).toEqual([{ text: 'x', styles: [], ...colors }]);
  });

  it.each(JSON.parse(readFileSync(CASES, 'utf-8')) as [string, string][])(
    'shows of %j what a notebook holds as text',
    (line, text) => {
      const spans = parseSpans(line);
      expect(spans.map(span => span.text).join('')).toBe(text);
    }
  );
});
