import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import { Panel } from '@lumino/widgets';
import * as React from 'react';

import type { JobLog } from './joblog';
import type { ILogHeaderProps } from './logheader';
import { LogHeader } from './logheader';
import { LogPane } from './logpane';
import { MetricPane } from './metricchart';
import type { DLEnvModel } from './model';
import type { JobState } from './tokens';
import { hasEnded } from './tokens';

const TICK_MS = 1000;
const TICKS_OF_METRICS = 2;

export interface ILogViewOptions {
  readonly jobId: string;
  /** What to call the job until the server has said. */
  readonly name: string;
  readonly lastState?: JobState;
  readonly model: DLEnvModel;
  readonly trans: TranslationBundle;
  readonly onStop: (force: boolean) => void;
  readonly onOpen?: () => void;
}

/** A job's state and live log; reads only while it can be seen. */
export class LogView extends Panel {
  constructor(private readonly _options: ILogViewOptions) {
    super();
    this.addClass('jp-dlenv-LogView');
    this._log = _options.model.log(_options.jobId);
    this._pane = new LogPane(this._log, _options.trans);
    this._header = new HeaderWidget(() => this._headerProps());
    this._metrics = new MetricPane(_options.trans);
    this.addWidget(this._header);
    this.addWidget(this._metrics);
    this.addWidget(this._pane);
    this._log.changed.connect(this._onChanged, this);
    this._pane.followingChanged.connect(this._refreshHeader, this);
    _options.model.stateChanged.connect(this._refreshHeader, this);
  }

  get jobId(): string {
    return this._options.jobId;
  }

  get jobName(): string {
    return this._log.job?.name || this._options.name;
  }

  override dispose(): void {
    this._rest();
    this._log.dispose();
    Signal.clearData(this);
    super.dispose();
  }

  protected override onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    this._watch();
  }

  protected override onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._watch();
  }

  protected override onBeforeHide(msg: Message): void {
    this._rest();
    super.onBeforeHide(msg);
  }

  protected override onBeforeDetach(msg: Message): void {
    this._rest();
    super.onBeforeDetach(msg);
  }

  private _watch(): void {
    if (this.isVisible && this._clock === 0) {
      this._log.start();
      this._clock = window.setInterval(() => this._tick(), TICK_MS);
    }
  }

  private _rest(): void {
    this._log.pause();
    window.clearInterval(this._clock);
    this._clock = 0;
  }

  private _tick(): void {
    if (this._log.job && !hasEnded(this._log.job.state)) {
      this._header.update();
    }
    this._ticks += 1;
    if (this._ticks % TICKS_OF_METRICS === 0) {
      void this._refreshMetrics();
    }
  }

  /** Ask for metrics when there is more of the log than at the last time, and once more at its end. */
  private async _refreshMetrics(): Promise<void> {
    const seen = `${this._log.lines.end} ${this._log.phase}`;
    if (seen === this._metricsOf || this._log.lines.end === 0) {
      return;
    }
    this._metricsOf = seen;
    try {
      const metrics = await this._options.model.metrics(this.jobId);
      if (!this.isDisposed) {
        this._metrics.metrics = metrics;
      }
    } catch {
      // The log is there without its chart; the next lines ask again.
    }
  }

  private _onChanged(): void {
    this._pane.setHidden(this._log.phase === 'missing');
    this._refreshHeader();
  }

  /** Lines come by the thousand, and the header shows none of them. */
  private _refreshHeader(): void {
    const { job, waitsFor, phase, error, shortened, stopping, following } = this._headerProps();
    const shown = [job, waitsFor, phase, String(error), shortened, stopping, following];
    const key = JSON.stringify(shown);
    if (key !== this._headerKey) {
      this._headerKey = key;
      this._header.update();
    }
  }

  private _headerProps(): ILogHeaderProps {
    const { model, name, lastState, trans, onStop, onOpen } = this._options;
    const { job, waitsFor, phase, error, shortened } = this._log;
    return {
      name,
      job,
      waitsFor,
      phase,
      error,
      shortened,
      trans,
      onStop,
      onOpen,
      lastState: lastState ?? null,
      stopping: model.stopping.has(this.jobId),
      following: this._pane.following,
      now: Date.now() / 1000,
      onFollow: follow => (this._pane.following = follow)
    };
  }

  private _clock = 0;
  private _header: HeaderWidget;
  private _headerKey = '';
  private _log: JobLog;
  private _metrics: MetricPane;
  private _metricsOf = '';
  private _pane: LogPane;
  private _ticks = 0;
}

class HeaderWidget extends ReactWidget {
  constructor(private readonly _props: () => ILogHeaderProps) {
    super();
  }

  protected override render(): JSX.Element {
    return React.createElement(LogHeader, this._props());
  }
}
