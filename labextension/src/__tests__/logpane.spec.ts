/**
 * @jest-environment jsdom
 */
import { isJobOutput } from '../joboutput';
import { openRows, visibleRows } from '../logpane';

describe('visibleRows', () => {
  it.each([
    [
      { top: 0, height: 100, total: 5 },
      { start: 0, end: 5 }
    ],
    [
      { top: 0, height: 100, total: 20_000 },
      { start: 0, end: 30 }
    ],
    [
      { top: 10_000, height: 100, total: 20_000 },
      { start: 980, end: 1030 }
    ],
    [
      { top: 199_900, height: 100, total: 20_000 },
      { start: 19_970, end: 20_000 }
    ],
    [
      { top: 500, height: 100, total: 0 },
      { start: 0, end: 0 }
    ]
  ])('paints of %j only %j', (viewport, rows) => {
    expect(visibleRows({ ...viewport, rowHeight: 10 })).toEqual(rows);
  });
});

describe('openRows', () => {
  it('orders ranks by number and names all but the first', () => {
    const lines = { '10': 'j', launcher: 'up', '2': 'b', '0': ' 1%\r 2%' };
    expect(openRows(lines, true)).toEqual([' 2%', '[2] b', '[10] j', 'up']);
  });

  it('folds what several ranks show alike', () => {
    const lines = { '0': '50%', '1': '50%', '2': '49%' };
    expect(openRows(lines, true)).toEqual(['[0-1] 50%', '[2] 49%']);
    expect(openRows(lines, false)).toEqual(['50%', '[1] 50%', '[2] 49%']);
  });
});

describe('isJobOutput', () => {
  it('takes what names a job', () => {
    expect(
      isJobOutput({ job_id: '5ab4c0de-0000-4000-8000-000000000000', name: '', state: 'LOST' })
    ).toBe(true);
  });

  it.each([null, 'x', {}, { job_id: 1 }, { job_id: '../../api/shutdown' }, { job_id: '..' }])(
    'refuses %j',
    data => {
      expect(isJobOutput(data)).toBe(false);
    }
  );
});
