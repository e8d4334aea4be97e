import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IMetrics, ISeries } from './metrics';
import { seriesOf } from './metrics';

const WIDTH = 600;
const HEIGHT = 120;
const MARGIN = 4;
const DIGITS = 6;

export interface IMetricChartProps {
  readonly metrics: IMetrics;
  readonly trans: TranslationBundle;
}

/** A line for each metric, each between its own least and largest value, which the legend tells. */
export function MetricChart({ metrics, trans }: IMetricChartProps): JSX.Element {
  const series = seriesOf(metrics);
  return (
    <div className="jp-dlenv-MetricChart">
      {series.length > 0 && <Lines series={series} trans={trans} />}
      {metrics.note && <p className="jp-dlenv-MetricChart-note">{metrics.note}</p>}
    </div>
  );
}

interface ILinesProps {
  readonly series: readonly ISeries[];
  readonly trans: TranslationBundle;
}

function Lines({ series, trans }: ILinesProps): JSX.Element {
  return (
    <>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={trans.__('Metrics: %1', series.map(one => one.name).join(', '))}
      >
        {series.map((one, i) => (
          <polyline key={one.name} data-line={i} points={pointsOf(one)} />
        ))}
      </svg>
      <ul className="jp-dlenv-MetricChart-legend">
        {series.map((one, i) => (
          <li key={one.name} data-line={i} title={trans.__('%1 to %2', ...rangeOf(one))}>
            {one.name} <b>{numberText(one.last)}</b>
          </li>
        ))}
      </ul>
    </>
  );
}

function pointsOf({ points }: ISeries): string {
  const drawn = points.map(([x, y]) => {
    const left = MARGIN + x * (WIDTH - 2 * MARGIN);
    const top = MARGIN + (1 - y) * (HEIGHT - 2 * MARGIN);
    return `${left.toFixed(1)},${top.toFixed(1)}`;
  });
  // A line from a point to itself is a dot.
  return (drawn.length === 1 ? [...drawn, ...drawn] : drawn).join(' ');
}

function rangeOf({ least, most }: ISeries): [string, string] {
  return [numberText(least), numberText(most)];
}

function numberText(value: number): string {
  return String(Number(value.toPrecision(DIGITS)));
}

/** The chart above a log; it takes no room until there is something to draw. */
export class MetricPane extends ReactWidget {
  constructor(private readonly _trans: TranslationBundle) {
    super();
    this.hide();
  }

  set metrics(value: IMetrics) {
    this._metrics = value;
    this.setHidden(seriesOf(value).length === 0 && !value.note);
    this.update();
  }

  protected override render(): JSX.Element | null {
    return this._metrics && <MetricChart metrics={this._metrics} trans={this._trans} />;
  }

  private _metrics: IMetrics | null = null;
}
