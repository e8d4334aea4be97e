import type { TranslationBundle } from '@jupyterlab/translation';

import { ApiError } from './request';
import { parseSpans, settle } from './terminaltext';
import type { IJob, IKernel, IPool, JobState, KernelState } from './tokens';
import { hasEnded } from './tokens';

/** What went wrong, and the next step, empty when there is none. */
export interface IProblem {
  readonly message: string;
  readonly hint: string;
}

/** Return the state in the user's language; a state of a newer server as it is. */
export function stateText(state: JobState | KernelState, trans: TranslationBundle): string {
  const texts: Record<JobState | KernelState, string> = {
    PENDING: trans.__('waiting'),
    QUEUED: trans.__('waiting'),
    PULLING: trans.__('pulling the image'),
    CREATING: trans.__('creating the container'),
    STARTING: trans.__('starting'),
    RUNNING: trans.__('running'),
    SUCCEEDED: trans.__('succeeded'),
    FAILED: trans.__('failed'),
    CANCELLED: trans.__('cancelled'),
    LOST: trans.__('lost')
  };
  return texts[state] ?? state;
}

/** Return how many kernels a pool has ready, which GPUs it holds, and why it has no more. */
export function poolText(pool: IPool, trans: TranslationBundle): string {
  const counted = trans.__('%1 of %2 ready', pool.ready, pool.size);
  const held = pool.gpus.length > 0 ? trans.__('holds %1', pool.gpus.join(', ')) : '';
  return [counted, held, pool.message].filter(part => part).join(' · ');
}

/** Return the announcement of a kernel's end. */
export function deathText(kernel: IKernel, trans: TranslationBundle): string {
  if (!hasEnded(kernel.state)) {
    return trans.__('The kernel of %1 ended and was started again.', kernel.environment);
  }
  return (
    kernel.message ||
    trans.__('The kernel of %1 ended: %2', kernel.environment, stateText(kernel.state, trans))
  );
}

/** Return lines that a terminal was meant for as text alone. */
export function plainLines(text: string): string {
  const plain = (line: string) =>
    parseSpans(settle(line))
      .map(span => span.text)
      .join('');
  return text.split('\n').map(plain).join('\n').trim();
}

/** Return how the job ended in one line, its exit code once; empty while it runs and when it simply succeeded. */
export function outcomeText(job: IJob, trans: TranslationBundle): string {
  if (!hasEnded(job.state) || job.state === 'SUCCEEDED') {
    return '';
  }
  const known = job.exit_code === null || job.message.includes(String(job.exit_code));
  const code = known ? '' : trans.__('exit code %1', job.exit_code);
  return [code, job.message].filter(part => part).join(' · ');
}

/** Return which attempt of several a job is in; empty where there is one only. */
export function attemptText(job: IJob, trans: TranslationBundle): string {
  const most = job.attempts ?? 1;
  return most > 1 ? trans.__('attempt %1 of %2', job.attempt ?? 1, most) : '';
}

/** Return the announcement of a job's end. */
export function endText(job: IJob, trans: TranslationBundle): string {
  const took = elapsedText(job, job.finished_at ?? 0);
  const state = stateText(job.state, trans);
  const head = took
    ? trans.__('%1: %2 after %3', job.name, state, took)
    : trans.__('%1: %2', job.name, state);
  return [head, outcomeText(job, trans)].filter(part => part).join(' · ');
}

/** Return what a pending job waits for; empty in every other state. */
export function waitText(job: IJob): string {
  return job.state === 'PENDING' ? job.message : '';
}

/** Return how long the job has run as `h:mm:ss`, empty before it started; `now` is in seconds since the epoch. */
export function elapsedText(job: IJob, now: number): string {
  if (job.started_at === null) {
    return '';
  }
  const end = job.finished_at ?? now;
  const seconds = Math.max(0, Math.floor(end - job.started_at));
  const pad = (part: number) => String(part).padStart(2, '0');
  return `${Math.floor(seconds / 3600)}:${pad(Math.floor(seconds / 60) % 60)}:${pad(seconds % 60)}`;
}

/** Return what to tell about any error. */
export function describeError(error: unknown, trans: TranslationBundle): IProblem {
  if (!(error instanceof ApiError)) {
    return { message: error instanceof Error ? error.message : String(error), hint: '' };
  }
  switch (error.kind) {
    case 'Unreachable':
      return { message: trans.__('The Jupyter server does not answer.'), hint: '' };
    case 'NotServed':
      return {
        message: trans.__(
          'This Jupyter server runs without jupyter-dlenv. Enable it and start again:'
        ),
        hint: 'jupyter server extension enable jupyter_dlenv'
      };
    default:
      return { message: error.message, hint: error.hint };
  }
}
