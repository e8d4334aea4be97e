/**
 * @jest-environment jsdom
 */
import { readFileSync } from 'fs';
import { join } from 'path';

import { Folder, rankSet, WINDOW } from '../folding';
import { LineBuffer } from '../linebuffer';
import { folded } from '../logpane';

interface ICase {
  readonly about: string;
  readonly lines: readonly string[];
  readonly folded: readonly string[];
}

const CASES = join(__dirname, '../../../tests/notebook/folding.json');

function between(count: number): string[] {
  return Array.from({ length: count }, (_, number) => `line ${number}`);
}

describe('Folder', () => {
  // The test of what a notebook holds as text reads the same cases.
  it.each(JSON.parse(readFileSync(CASES, 'utf-8')) as ICase[])('folds $about', example => {
    expect(folded(example.lines)).toEqual(example.folded);
  });

  it('joins only the last lines', () => {
    const near = between(WINDOW - 1);
    expect(folded(['far', ...near, '[1] far'])).toEqual(['[0-1] far', ...near]);
    const far = ['far', ...between(WINDOW), '[1] far'];
    expect(folded(far)).toEqual(far);
  });

  it('goes on when old lines go', () => {
    const lines = new LineBuffer(5);
    const folder = new Folder(lines);
    for (let step = 0; step < 1000; step++) {
      ['', '[1] ', '[2] '].forEach(prefix => folder.push(`${prefix}step ${step % 7}`));
    }
    const kept = Array.from({ length: 5 }, (_, i) => lines.at(lines.first + i));
    expect(kept).toEqual([2, 3, 4, 5, 6].map(i => `[0-2] step ${(993 + i) % 7}`));
    expect(lines.end).toBe(1000);
  });
});

describe('rankSet', () => {
  it.each([
    [[0], '0'],
    [[1, 0], '0-1'],
    [[5, 0, 2, 3, 7, 6], '0,2-3,5-7']
  ])('writes %j as %j', (ranks, text) => {
    expect(rankSet(ranks)).toBe(text);
  });
});
