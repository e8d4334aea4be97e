/**
 * @jest-environment jsdom
 */
import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { renderToStaticMarkup } from 'react-dom/server';

import { MetricChart } from '../metricchart';
import { MAX_SERIES, seriesOf } from '../metrics';

const trans = nullTranslator.load('jupyter_dlenv');

function table(columns: string[], rows: unknown[][]) {
  return { columns, rows };
}

describe('seriesOf', () => {
  it('places points by their steps', () => {
    const rows = [
      [0, 4, null],
      [30, 2, null],
      [40, 0, 1]
    ];
    expect(seriesOf(table(['step', 'loss', 'accuracy'], rows))).toEqual([
      {
        name: 'loss',
        points: [
          [0, 1],
          [0.75, 0.5],
          [1, 0]
        ],
        least: 0,
        most: 4,
        last: 0
      },
      { name: 'accuracy', points: [[1, 0.5]], least: 1, most: 1, last: 1 }
    ]);
  });

  it.each([[[0, 5, 0]], [[null, 1, 2]], [['a', 'b', 'c']]])('counts %j', steps => {
    const rows = steps.map((step, i) => [step, i]);
    expect(seriesOf(table(['step', 'loss'], rows))[0].points.map(([x]) => x)).toEqual([0, 0.5, 1]);
  });

  it.each([[[]], [[[0, null]]], [[[0, 'x']]], [[[0, Infinity]]], [[[0]]]])(
    'finds nothing in %j',
    rows => {
      expect(seriesOf(table(['step', 'loss'], rows))).toEqual([]);
    }
  );

  it('makes a line of each rank', () => {
    const rows = [
      [0, 0, 1, null],
      [0, 1, 2, null],
      [1, 0, 0.5, 'NaN'],
      [1, 1, 1, 0.9]
    ];
    const series = seriesOf(table(['step', 'rank', 'loss', 'accuracy'], rows));
    expect(series.map(({ name, least, most }) => [name, least, most])).toEqual([
      ['loss', 0.5, 1],
      ['[1] loss', 1, 2],
      ['[1] accuracy', 0.9, 0.9]
    ]);
  });

  it('takes no more than can be drawn, the newest always', () => {
    const columns = ['step', ...Array.from({ length: 20 }, (_, i) => `m${i}`)];
    const rows = Array.from({ length: 10_000 }, (_, i) => [i, ...Array(20).fill(i)]);
    const series = seriesOf(table(columns, rows));
    expect(series).toHaveLength(MAX_SERIES);
    expect(series[0].points.length).toBeLessThanOrEqual(300);
    expect(series[0].points.slice(-1)).toEqual([[1, 1]]);
  });
});

describe('MetricChart', () => {
  it('draws a line and a word for each metric', () => {
    const metrics = table(
      ['step', 'loss', '<b>'],
      [
        [0, 2, 1],
        [1, 0.123456789, 1]
      ]
    );
    const page = document.createElement('div');
    page.innerHTML = renderToStaticMarkup(<MetricChart metrics={metrics} trans={trans} />);
    expect(page.querySelectorAll('polyline')).toHaveLength(2);
    expect([...page.querySelectorAll('li')].map(item => item.textContent)).toEqual([
      'loss 0.123457',
      '<b> 1'
    ]);
    expect(page.querySelector('svg')?.getAttribute('aria-label')).toBe('Metrics: loss, <b>');
    expect(page.querySelector('li')?.title).toBe('0.123457 to 2');
  });

  it('says what is missing, even where nothing is drawn', () => {
    const metrics = { ...table(['step'], []), note: 'A pattern <b> took too long.' };
    const page = document.createElement('div');
    page.innerHTML = renderToStaticMarkup(<MetricChart metrics={metrics} trans={trans} />);
    expect(page.querySelector('svg')).toBeNull();
    expect(page.textContent).toBe('A pattern <b> took too long.');
  });
});
