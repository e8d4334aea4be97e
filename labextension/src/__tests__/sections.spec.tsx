/**
 * @jest-environment jsdom
 */
import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { act } from 'react';
import type { Root } from 'react-dom/client';
import { createRoot } from 'react-dom/client';

import type { ISection } from '../model';
import { ApiError } from '../request';
import type { IJobsProps, IKernelsProps } from '../sections';
import { EnvironmentsSection, JobsSection, KernelsSection } from '../sections';
import type { IJob, IKernel, IPool } from '../tokens';
import { environment } from './apiserver';

const trans = nullTranslator.load('jupyter_dlenv');
const NONE = { items: [], loaded: true, error: null };
const JOB: IJob = {
  id: 'j1',
  name: 'train',
  state: 'RUNNING',
  exit_code: null,
  message: '',
  image: '',
  environment: '',
  engine: 'docker',
  command: 'train.py --lr 1',
  created_at: 1000,
  started_at: 1000,
  finished_at: null,
  log_path: '',
  log_bytes: 0
};

let host: HTMLElement;
let root: Root;

beforeEach(() => {
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  host = document.body.appendChild(document.createElement('div'));
  root = createRoot(host);
});

afterEach(() => {
  act(() => root.unmount());
  host.remove();
});

function show(element: JSX.Element): void {
  act(() => root.render(element));
}

function button(label: string): HTMLButtonElement {
  const found = host.querySelector<HTMLButtonElement>(`button[aria-label="${label}"]`);
  if (!found) {
    throw new Error(`no button ${label} in ${host.innerHTML}`);
  }
  return found;
}

function showJobs(job: IJob, more: Partial<IJobsProps> = {}): void {
  const section: ISection<IJob> = { items: [job], loaded: true, error: null };
  const silent = () => undefined;
  const props = {
    section,
    trans,
    now: 4723,
    stopping: new Set<string>(),
    onStop: silent,
    onLog: silent,
    onTerminal: silent
  };
  show(<JobsSection {...props} {...more} />);
}

describe('EnvironmentsSection', () => {
  it('says what to do when there is none', () => {
    show(<EnvironmentsSection section={NONE} trans={trans} onStart={() => undefined} />);
    expect(host.textContent).toContain('jupyter dlenv env add NAME --image REF');
  });

  it('starts a notebook', () => {
    const started: string[] = [];
    const torch = environment();
    show(
      <EnvironmentsSection
        section={{ ...NONE, items: [torch] }}
        trans={trans}
        onStart={name => started.push(name)}
      />
    );
    act(() => button('Start a notebook with torch').click());
    expect(started).toEqual(['torch']);
    expect(host.textContent).toContain('img:1');
  });

  it('says what failed and what helps', () => {
    const error = new ApiError(
      503,
      'EngineUnavailable',
      'Docker does not answer.',
      'systemctl start docker'
    );
    const section = { items: [], loaded: false, error };
    show(<EnvironmentsSection section={section} trans={trans} onStart={() => undefined} />);
    const alert = host.querySelector('[role="alert"]');
    expect(alert?.textContent).toContain(
      'The environments could not be listed. Docker does not answer.'
    );
    expect(alert?.querySelector('code')?.textContent).toBe('systemctl start docker');
  });

  it('names the command that enables a server extension which is off', () => {
    const section = {
      items: [],
      loaded: false,
      error: new ApiError(404, 'NotServed', 'Not Found')
    };
    show(<EnvironmentsSection section={section} trans={trans} onStart={() => undefined} />);
    expect(host.querySelector('code')?.textContent).toBe(
      'jupyter server extension enable jupyter_dlenv'
    );
  });
});

describe('EnvironmentsSection with a pool', () => {
  const torch = environment();
  const showPool = (pool: IPool) => {
    const section = { ...NONE, items: [{ ...torch, pool: pool.size, pool_status: pool }] };
    show(<EnvironmentsSection section={section} trans={trans} onStart={() => undefined} />);
  };

  it('says how many kernels are ready', () => {
    showPool({ size: 3, ready: 2, gpus: [], message: 'The disk is full.' });
    expect(host.textContent).toContain('2 of 3 ready · The disk is full.');
    expect(host.textContent).not.toContain('holds');
  });

  it('says which GPUs it holds', () => {
    showPool({ size: 1, ready: 1, gpus: ['GPU-a', 'GPU-b'], message: '' });
    expect(host.textContent).toContain('1 of 1 ready · holds GPU-a, GPU-b');
  });
});

describe('KernelsSection', () => {
  const KERNEL: IKernel = {
    id: 'k1',
    environment: 'torch',
    image: 'img:1',
    engine: 'docker',
    state: 'RUNNING',
    message: '',
    last_lines: '',
    ended_at: null
  };
  const TERMINAL = 'Open a terminal in this container';

  function showKernel(changes: Partial<IKernel>, more: Partial<IKernelsProps> = {}): void {
    const silent = () => undefined;
    const section = { ...NONE, items: [{ ...KERNEL, ...changes }] };
    const props = { section, trans, stopping: new Set<string>(), onStop: silent, onCancel: silent };
    show(<KernelsSection {...props} onTerminal={silent} {...more} />);
  }

  it('shuts a kernel down once', () => {
    const stopped: string[] = [];
    const onStop = (id: string) => stopped.push(id);
    showKernel({}, { onStop });
    act(() => button('Shut down the kernel of torch').click());
    showKernel({}, { onStop, stopping: new Set(['k1']) });
    expect(stopped).toEqual(['k1']);
    expect(button('Shut down the kernel of torch').disabled).toBe(true);
    expect(host.textContent).toContain('stopping…');
  });

  it.each([
    ['QUEUED', 'waiting'],
    ['PULLING', 'pulling the image'],
    ['CREATING', 'creating the container'],
    ['STARTING', 'starting'],
    ['RUNNING', 'running'],
    ['SUCCEEDED', 'succeeded'],
    ['FAILED', 'failed'],
    ['LOST', 'lost']
  ] as const)('says %s in words', (state, words) => {
    showKernel({ state, message: 'layer 3 of 7' });
    expect(host.querySelector('.jp-dlenv-State')?.textContent).toBe(words);
    expect(host.textContent).toContain('layer 3 of 7');
  });

  it('takes a kernel that waits for GPUs out of the queue, once', () => {
    const label = 'Take this kernel out of the queue for GPUs';
    const waiting: Partial<IKernel> = { state: 'QUEUED', message: 'Place 2: all 4 GPUs are held.' };
    const cancelled: string[] = [];
    const onCancel = (id: string) => cancelled.push(id);
    showKernel(waiting, { onCancel });
    expect(host.textContent).toContain('Place 2: all 4 GPUs are held.');
    expect(host.querySelector('[aria-label^="Shut down"]')).toBeNull();
    act(() => button(label).click());
    showKernel(waiting, { onCancel, stopping: new Set(['k1']) });
    expect([button(label).disabled, button(label).textContent]).toEqual([true, 'Cancel']);
    expect(button(label).title).toBe(label);
    expect(cancelled).toEqual(['k1']);
  });

  it.each<Partial<IKernel>>([
    { state: 'QUEUED', message: '' },
    { state: 'PULLING', message: 'layer 3 of 7' }
  ])('has no queue to take %j out of', changes => {
    showKernel(changes);
    expect(host.querySelector('[aria-label^="Take this kernel"]')).toBeNull();
    expect(button('Shut down the kernel of torch').disabled).toBe(false);
  });

  it('opens a terminal only where a container runs', () => {
    const opened: string[] = [];
    const onTerminal = (id: string) => opened.push(id);
    showKernel({}, { onTerminal });
    act(() => button(TERMINAL).click());
    expect(opened).toEqual(['k1']);
    for (const changes of [{ state: 'STARTING' }, { state: 'FAILED' }, { engine: 'process' }]) {
      showKernel(changes as Partial<IKernel>, { onTerminal });
      expect(host.querySelector(`[aria-label="${TERMINAL}"]`)).toBeNull();
    }
  });

  it('folds out what a dead kernel wrote last, and keeps it so', () => {
    const dead: Partial<IKernel> = {
      state: 'FAILED',
      message: 'Out of memory.',
      last_lines: '\x1b[31mloading\x1b[0m\n10%\r100%\n',
      ended_at: 7
    };
    showKernel(dead);
    const lines = host.querySelector('details') as HTMLDetailsElement;
    expect(lines.open).toBe(false);
    expect(lines.querySelector('pre')?.textContent).toBe('loading\n100%');
    lines.open = true;
    showKernel({ ...dead });
    expect(host.querySelector('details')).toBe(lines);
    expect(lines.open).toBe(true);
    expect(host.querySelector('[aria-label^="Shut down"]')).toBeNull();
  });

  it('shows nothing to fold out for a kernel that wrote nothing', () => {
    showKernel({ state: 'LOST', last_lines: '', ended_at: 7 });
    expect(host.querySelector('details')).toBeNull();
  });
});

describe('JobsSection', () => {
  it('shows the state in words and how long the job has run', () => {
    showJobs(JOB);
    expect(host.textContent).toContain('running1:02:03');
    expect(host.querySelector('.jp-dlenv-State svg')).not.toBeNull();
  });

  it('stops a running job, and kills one that is stopping', () => {
    const stops: [string, boolean][] = [];
    const onStop = (id: string, force: boolean) => stops.push([id, force]);
    showJobs(JOB, { onStop });
    act(() => button('Stop train').click());
    showJobs(JOB, { onStop, stopping: new Set(['j1']) });
    act(() => button('Kill train at once').click());
    expect(stops).toEqual([
      ['j1', false],
      ['j1', true]
    ]);
  });

  it('opens the log', () => {
    const opened: string[][] = [];
    showJobs(JOB, { onLog: (...args) => opened.push(args) });
    act(() => button('Show the log of train').click());
    expect(opened).toEqual([['j1', 'train']]);
  });

  it('opens a terminal in a job that runs in a container', () => {
    const opened: string[] = [];
    const onTerminal = (id: string) => opened.push(id);
    showJobs(JOB, { onTerminal });
    act(() => button('Open a terminal in this container').click());
    expect(opened).toEqual(['j1']);
    showJobs({ ...JOB, engine: 'process' }, { onTerminal });
    expect(host.querySelector('[aria-label^="Open a terminal"]')).toBeNull();
  });

  it('says what a pending job waits for, and stops it', () => {
    const stops: [string, boolean][] = [];
    const pending: IJob = {
      ...JOB,
      state: 'PENDING',
      message: 'Waits for 2 GPUs.',
      started_at: null
    };
    showJobs(pending, { onStop: (id, force) => stops.push([id, force]) });
    expect(host.querySelector('.jp-dlenv-Item-message')?.textContent).toBe('Waits for 2 GPUs.');
    act(() => button('Stop train').click());
    expect(stops).toEqual([['j1', false]]);
    showJobs({ ...JOB, message: 'One of its GPUs fails.' });
    expect(host.querySelector('.jp-dlenv-Item-message')).toBeNull();
  });

  it('says how a job ended, and offers no stop', () => {
    showJobs({
      ...JOB,
      state: 'FAILED',
      exit_code: 1,
      message: 'ValueError on rank 1.',
      finished_at: 1059
    });
    expect(host.textContent).toContain('failed0:00:59');
    expect(host.textContent).toContain('ValueError on rank 1.');
    expect(host.querySelector('[aria-label^="Stop"]')).toBeNull();
  });
});
