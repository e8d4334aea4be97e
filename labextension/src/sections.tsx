import type { TranslationBundle } from '@jupyterlab/translation';
import { notebookIcon, stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import { stateIcon } from './icons';
import { KernelItem, TerminalButton } from './kernelitem';
import {
  attemptText,
  describeError,
  elapsedText,
  outcomeText,
  poolText,
  stateText,
  waitText
} from './messages';
import type { ISection } from './model';
import type { IEnvironment, IJob, IKernel } from './tokens';
import { hasEnded } from './tokens';

interface ISectionProps<T> {
  readonly section: ISection<T>;
  readonly trans: TranslationBundle;
}

export interface IEnvironmentsProps extends ISectionProps<IEnvironment> {
  readonly onStart: (name: string) => void;
}

export interface IKernelsProps extends ISectionProps<IKernel> {
  readonly stopping: ReadonlySet<string>;
  readonly onStop: (id: string) => void;
  readonly onCancel: (id: string) => void;
  readonly onTerminal: (id: string) => void;
}

export interface IJobsProps extends ISectionProps<IJob> {
  readonly stopping: ReadonlySet<string>;
  /** Seconds since the epoch. */
  readonly now: number;
  readonly onStop: (id: string, force: boolean) => void;
  readonly onLog: (id: string, name: string) => void;
  readonly onTerminal: (id: string) => void;
}

export function EnvironmentsSection(props: IEnvironmentsProps): JSX.Element {
  const { section, trans, onStart } = props;
  return (
    <List
      section={section}
      trans={trans}
      failed={trans.__('The environments could not be listed.')}
      empty={trans.__('No environments yet. Make one in a terminal:')}
      example="jupyter dlenv env add NAME --image REF"
    >
      {section.items.map(environment => (
        <EnvironmentItem key={environment.name} {...{ environment, trans, onStart }} />
      ))}
    </List>
  );
}

export function KernelsSection(props: IKernelsProps): JSX.Element {
  const { section, trans, stopping, onStop, onCancel, onTerminal } = props;
  return (
    <List
      section={section}
      trans={trans}
      failed={trans.__('The kernels could not be listed.')}
      empty={trans.__('No kernel runs in a container. Start a notebook with an environment above.')}
    >
      {section.items.map(kernel => (
        <KernelItem
          key={`${kernel.id} ${kernel.ended_at ?? ''}`}
          stopping={stopping.has(kernel.id)}
          {...{ kernel, trans, onStop, onCancel, onTerminal }}
        />
      ))}
    </List>
  );
}

export function JobsSection(props: IJobsProps): JSX.Element {
  const { section, trans, stopping, now, onStop, onLog, onTerminal } = props;
  return (
    <List
      section={section}
      trans={trans}
      failed={trans.__('The jobs could not be listed.')}
      empty={trans.__('No jobs yet. Run one in a notebook:')}
      example="%dlrun train.py --gpus 1"
    >
      {section.items.map(job => (
        <JobItem
          key={job.id}
          stopping={stopping.has(job.id)}
          {...{ job, trans, now, onStop, onLog, onTerminal }}
        />
      ))}
    </List>
  );
}

interface IListProps extends ISectionProps<unknown> {
  readonly failed: string;
  readonly empty: string;
  readonly example?: string;
  readonly children: React.ReactNode;
}

function List({ section, trans, failed, empty, example, children }: IListProps): JSX.Element {
  return (
    <>
      {section.error !== null && <ErrorNote error={section.error} {...{ failed, trans }} />}
      {section.loaded && section.items.length === 0 && <EmptyNote {...{ empty, example }} />}
      {!section.loaded && section.error === null && (
        <p className="jp-dlenv-Note">{trans.__('Loading…')}</p>
      )}
      {section.items.length > 0 && <ul className="jp-dlenv-List">{children}</ul>}
    </>
  );
}

function EmptyNote({ empty, example }: { empty: string; example?: string }): JSX.Element {
  return (
    <div className="jp-dlenv-Note">
      <p>{empty}</p>
      {example && <code className="jp-dlenv-Example">{example}</code>}
    </div>
  );
}

interface IErrorNoteProps {
  readonly failed: string;
  readonly error: unknown;
  readonly trans: TranslationBundle;
}

function ErrorNote({ failed, error, trans }: IErrorNoteProps): JSX.Element {
  const { message, hint } = describeError(error, trans);
  return (
    <div className="jp-dlenv-Note jp-dlenv-mod-error" role="alert">
      <p>
        {failed} {message}
      </p>
      {hint && <code className="jp-dlenv-Example">{hint}</code>}
    </div>
  );
}

interface IEnvironmentItemProps {
  readonly environment: IEnvironment;
  readonly trans: TranslationBundle;
  readonly onStart: (name: string) => void;
}

function EnvironmentItem({ environment, trans, onStart }: IEnvironmentItemProps): JSX.Element {
  const { name, image, engine, pool_status: pool } = environment;
  const label = trans.__('Start a notebook with %1', name);
  const origin = image || trans.__('no container');
  return (
    <li className="jp-dlenv-Item">
      <div className="jp-dlenv-Item-text">
        <span className="jp-dlenv-Item-name">{name}</span>
        <span className="jp-dlenv-Item-detail" title={origin}>
          {origin} · {engine}
        </span>
        {pool && (
          <span className="jp-dlenv-Item-detail" title={poolText(pool, trans)}>
            {poolText(pool, trans)}
          </span>
        )}
      </div>
      <button
        className="jp-dlenv-Button"
        aria-label={label}
        title={label}
        onClick={() => onStart(name)}
      >
        <notebookIcon.react tag="span" className="jp-dlenv-Icon" />
        {trans.__('Notebook')}
      </button>
    </li>
  );
}

interface IJobItemProps {
  readonly job: IJob;
  readonly stopping: boolean;
  readonly now: number;
  readonly trans: TranslationBundle;
  readonly onStop: (id: string, force: boolean) => void;
  readonly onLog: (id: string, name: string) => void;
  readonly onTerminal: (id: string) => void;
}

function JobItem(props: IJobItemProps): JSX.Element {
  const { job, trans, onLog, onTerminal } = props;
  const label = trans.__('Show the log of %1', job.name);
  return (
    <li className="jp-dlenv-Item" data-job-state={job.state}>
      <div className="jp-dlenv-Item-text">
        <span className="jp-dlenv-Item-name" title={job.command}>
          {job.name}
        </span>
        <JobDetail {...props} />
      </div>
      <button
        className="jp-dlenv-Button"
        aria-label={label}
        title={label}
        onClick={() => onLog(job.id, job.name)}
      >
        {trans.__('Log')}
      </button>
      {job.state === 'RUNNING' && job.engine === 'docker' && (
        <TerminalButton trans={trans} onClick={() => onTerminal(job.id)} />
      )}
      {!hasEnded(job.state) && <StopJobButton {...props} />}
    </li>
  );
}

function JobDetail({ job, stopping, now, trans }: IJobItemProps): JSX.Element {
  const StateIcon = stateIcon(job.state);
  const ending = stopping && !hasEnded(job.state);
  const outcome = outcomeText(job, trans);
  const wait = waitText(job);
  return (
    <>
      <span className="jp-dlenv-State">
        <StateIcon.react tag="span" className="jp-dlenv-Icon" />
        {ending ? trans.__('stopping…') : stateText(job.state, trans)}
        <span className="jp-dlenv-Elapsed">{elapsedText(job, now)}</span>
        <span className="jp-dlenv-Elapsed">{attemptText(job, trans)}</span>
      </span>
      {wait && <span className="jp-dlenv-Item-message">{wait}</span>}
      {outcome && (
        <span className="jp-dlenv-Item-detail" title={outcome}>
          {outcome}
        </span>
      )}
    </>
  );
}

function StopJobButton({ job, stopping, trans, onStop }: IJobItemProps): JSX.Element {
  const label = stopping ? trans.__('Kill %1 at once', job.name) : trans.__('Stop %1', job.name);
  return (
    <button
      className="jp-dlenv-Button"
      aria-label={label}
      title={label}
      onClick={() => onStop(job.id, stopping)}
    >
      <stopIcon.react tag="span" className="jp-dlenv-Icon" />
      {stopping ? trans.__('Kill') : trans.__('Stop')}
    </button>
  );
}
