import type { TranslationBundle } from '@jupyterlab/translation';
import { stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import { stateIcon } from './icons';
import type { LogPhase } from './joblog';
import { attemptText, describeError, elapsedText, outcomeText, stateText } from './messages';
import type { IJob, JobState } from './tokens';
import { hasEnded } from './tokens';

export interface ILogHeaderProps {
  readonly name: string;
  /** Null until the server answered. */
  readonly job: IJob | null;
  /** What is known of the job without the server. */
  readonly lastState: JobState | null;
  /** What a pending job waits for, which has no log yet; empty otherwise. */
  readonly waitsFor: string;
  readonly phase: LogPhase;
  readonly error: unknown;
  readonly stopping: boolean;
  readonly following: boolean;
  /** Whether older lines are not here. */
  readonly shortened: boolean;
  /** Seconds since the epoch. */
  readonly now: number;
  readonly trans: TranslationBundle;
  readonly onStop: (force: boolean) => void;
  readonly onFollow: (follow: boolean) => void;
  /** Absent where the log already has a tab. */
  readonly onOpen?: () => void;
}

/** State, outcome and buttons above a log. */
export function LogHeader(props: ILogHeaderProps): JSX.Element {
  const { name, job, phase } = props;
  return (
    <>
      <div className="jp-dlenv-LogHeader">
        <StateLine {...props} />
        <span className="jp-dlenv-Item-name" title={job?.command}>
          {job?.name || name}
        </span>
        <span className="jp-dlenv-Elapsed">{job && elapsedText(job, props.now)}</span>
        <span className="jp-dlenv-Elapsed">{job && attemptText(job, props.trans)}</span>
        <span className="jp-dlenv-LogHeader-space" />
        {phase !== 'missing' && <Buttons {...props} />}
      </div>
      <Notes {...props} />
    </>
  );
}

function StateLine(props: ILogHeaderProps): JSX.Element {
  const { trans, stopping, phase } = props;
  const state = knownState(props);
  const StateIcon = stateIcon(state ?? 'PENDING');
  const ending = stopping && state !== null && !hasEnded(state);
  return (
    <span className="jp-dlenv-State" role="status" data-job-state={state ?? ''}>
      <StateIcon.react tag="span" className="jp-dlenv-Icon" />
      {ending ? trans.__('stopping…') : state && stateText(state, trans)}
      {phase === 'retrying' && ' · ' + trans.__('connecting again…')}
    </span>
  );
}

/** A notebook that was saved while its job ran says so for ever. */
function knownState({ job, lastState, phase }: ILogHeaderProps): JobState | null {
  const state = job?.state ?? lastState;
  return phase === 'missing' && (!state || !hasEnded(state)) ? 'LOST' : state;
}

function Buttons(props: ILogHeaderProps): JSX.Element {
  const { job, trans, following, stopping, onFollow, onOpen, onStop } = props;
  return (
    <>
      <button
        className="jp-dlenv-Button"
        aria-pressed={following}
        onClick={() => onFollow(!following)}
      >
        {trans.__('Follow')}
      </button>
      {onOpen && (
        <button className="jp-dlenv-Button" onClick={onOpen}>
          {trans.__('Open in a tab')}
        </button>
      )}
      {job && !hasEnded(job.state) && (
        <button className="jp-dlenv-Button" onClick={() => onStop(stopping)}>
          <stopIcon.react tag="span" className="jp-dlenv-Icon" />
          {stopping ? trans.__('Kill') : trans.__('Stop')}
        </button>
      )}
    </>
  );
}

function Notes(props: ILogHeaderProps): JSX.Element {
  const { job, waitsFor, phase, error, trans, shortened } = props;
  const outcome = job ? outcomeText(job, trans) : '';
  return (
    <>
      {waitsFor && phase !== 'missing' && <p className="jp-dlenv-Note">{waitsFor}</p>}
      {outcome && (
        <div className="jp-dlenv-Note jp-dlenv-mod-outcome">
          <p>
            {outcome} {job?.remedy}
          </p>
          {job?.evidence && <code>{job.evidence}</code>}
        </div>
      )}
      {phase === 'missing' && (
        <p className="jp-dlenv-Note">
          {trans.__('This server has no log of the job any more:')}{' '}
          {describeError(error, trans).message}
        </p>
      )}
      {phase === 'retrying' && (
        <p className="jp-dlenv-Note">{describeError(error, trans).message}</p>
      )}
      {shortened && job?.log_path && (
        <p className="jp-dlenv-Note">
          {trans.__('Only the end of the log is shown. All of it:')} <code>{job.log_path}</code>
        </p>
      )}
    </>
  );
}
