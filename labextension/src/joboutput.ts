import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { Panel, Widget } from '@lumino/widgets';

import type { LogView } from './logview';
import type { IJobOutput } from './tokens';
import { isJobId, JOB_MIME_TYPE } from './tokens';

export interface IJobOutputOptions {
  readonly view: (data: IJobOutput) => LogView;
  /** Shown when the data names no job. */
  readonly unreadable: string;
}

/**
 * A job in a notebook: its state and live log, from the server.
 *
 * Never over the kernel, which is busy just when somebody wants to stop a job.
 */
export class JobOutput extends Panel implements IRenderMime.IRenderer {
  constructor(private readonly _options: IJobOutputOptions) {
    super();
    this.addClass('jp-dlenv-JobOutput');
  }

  /** A job's output is replaced whenever its state changes; the log that is there goes on. */
  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const data: unknown = model.data[JOB_MIME_TYPE];
    const jobId = isJobOutput(data) ? data.job_id : '';
    if (jobId === this._jobId) {
      return;
    }
    this._jobId = jobId;
    [...this.widgets].forEach(widget => widget.dispose());
    this.addWidget(isJobOutput(data) ? this._options.view(data) : note(this._options.unreadable));
  }

  private _jobId: string | null = null;
}

/** True when the data names a job; it comes from notebooks that anybody may have written. */
export function isJobOutput(data: unknown): data is IJobOutput {
  return typeof data === 'object' && data !== null && isJobId((data as IJobOutput).job_id);
}

function note(text: string): Widget {
  const widget = new Widget();
  widget.addClass('jp-dlenv-Note');
  widget.node.textContent = text;
  return widget;
}
