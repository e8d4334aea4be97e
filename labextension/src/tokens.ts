/**
 * Names and shapes that the other modules share. Importing this file has no side effects.
 */
import { Token } from '@lumino/coreutils';

import type { DLEnvModel } from './model';

/** Namespace of commands, widgets and plugins. */
export const NAMESPACE = 'jupyter-dlenv';

/** What `%dlrun` leaves in a notebook. */
export const JOB_MIME_TYPE = 'application/vnd.jupyter-dlenv.job+json';

/** What the picker leaves in a notebook: the offer to switch to an environment. */
export const SWITCH_MIME_TYPE = 'application/vnd.jupyter-dlenv.environment+json';

export namespace CommandIDs {
  export const open = 'jupyter-dlenv:open';
  export const refresh = 'jupyter-dlenv:refresh';
  export const startNotebook = 'jupyter-dlenv:start-notebook';
  export const stopKernel = 'jupyter-dlenv:stop-kernel';
  export const cancelKernel = 'jupyter-dlenv:cancel-kernel';
  export const stopJob = 'jupyter-dlenv:stop-job';
  export const openLog = 'jupyter-dlenv:open-log';
  export const openTerminal = 'jupyter-dlenv:open-terminal';
}

export type JobState =
  'PENDING' | 'PULLING' | 'STARTING' | 'RUNNING' | 'SUCCEEDED' | 'FAILED' | 'CANCELLED' | 'LOST';

/** Where a kernel stands on its way up, and how it ended; `RUNNING` is ready. */
export type KernelState =
  'QUEUED' | 'PULLING' | 'CREATING' | 'STARTING' | 'RUNNING' | 'FAILED' | 'SUCCEEDED' | 'LOST';

/** A job as the REST API describes it; fields that nothing here shows are left out. */
export interface IJob {
  readonly id: string;
  readonly name: string;
  readonly state: JobState;
  readonly exit_code: number | null;
  /** What it waits for while it is pending, or how it ended. */
  readonly message: string;
  readonly engine: string;
  readonly image: string;
  readonly environment: string;
  readonly command: string;
  /** Seconds since the epoch, as the two below. */
  readonly created_at: number;
  readonly started_at: number | null;
  readonly finished_at: number | null;
  /** The line of the log that says why it failed, and what helps; absent or empty where nothing does. */
  readonly evidence?: string;
  readonly remedy?: string;
  readonly log_path: string;
  readonly log_bytes: number;
  /** Which attempt this is, and how many there can be; absent where there is one only. */
  readonly attempt?: number;
  readonly attempts?: number;
  /** Containers or hosts, and processes of each. */
  readonly nodes?: number;
  readonly nproc?: number;
}

/** An environment, which is a kernelspec of the same name. */
export interface IEnvironment {
  readonly name: string;
  readonly display_name: string;
  readonly engine: string;
  readonly image: string;
  readonly gpus: string;
  /** Least memory of each GPU, such as `40g`; empty for any. */
  readonly gpu_memory: string;
  /** Whether others may use the same GPUs at the same time. */
  readonly shared: boolean;
  /** Absent where no kernels are kept ready. */
  readonly pool_status?: IPool;
}

/** Kernels that are kept ready: how many are wanted, how many are there, and the GPUs that they hold. */
export interface IPool {
  readonly size: number;
  readonly ready: number;
  readonly gpus: readonly string[];
  /** Why it cannot be filled, empty when it can. */
  readonly message: string;
}

/** A kernel that starts, runs or died; `id` is the Jupyter kernel id. */
export interface IKernel {
  readonly id: string;
  readonly environment: string;
  readonly image: string;
  readonly engine: string;
  readonly state: KernelState;
  /** Its place in the queue for GPUs, how far its start has come, what is wrong with it, or why it ended. */
  readonly message: string;
  /** What it wrote last before it ended. */
  readonly last_lines: string;
  /** Seconds since the epoch, null when it never ended; one that was started again keeps it. */
  readonly ended_at: number | null;
}

/** What has a container that a terminal can be opened in. */
export type TerminalKind = 'kernels' | 'jobs';

/** The data of an output with {@link JOB_MIME_TYPE}. */
export interface IJobOutput {
  readonly job_id: string;
  readonly state: JobState;
  readonly name: string;
}

const ENDED: ReadonlySet<string> = new Set<JobState>(['SUCCEEDED', 'FAILED', 'CANCELLED', 'LOST']);

/** True when nothing can change the state any more. */
export function hasEnded(state: JobState | KernelState): boolean {
  return ENDED.has(state);
}

/** True while a kernel's start waits for GPUs; one that was asked for just now is `QUEUED` without a message. */
export function waitsForGpus(kernel: IKernel): boolean {
  return kernel.state === 'QUEUED' && kernel.message !== '';
}

const JOB_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * True for a canonical UUID. Ids come from notebooks that anybody may have written and end up in URLs,
 * where `..` would reach other endpoints.
 */
export function isJobId(text: unknown): text is string {
  return typeof text === 'string' && JOB_ID.test(text);
}

/** Provided by the main plugin: what runs, and how to stop it. */
export const IDLEnvModel = new Token<DLEnvModel>(
  'jupyter-dlenv:IDLEnvModel',
  'Environments, container kernels and jobs of jupyter-dlenv, and the logs of jobs.'
);
