import { nullTranslator } from '@jupyterlab/translation';

import type { Memory } from '../deaths';
import { EndWatch } from '../ends';
import { attemptText, endText } from '../messages';
import { DLEnvModel } from '../model';
import type { IJob } from '../tokens';
import type { IApiServer } from './apiserver';
import { answer, job, JOB_ID, serve } from './apiserver';

const trans = nullTranslator.load('jupyter_dlenv');
const ENDED = job({ state: 'FAILED', exit_code: 3, message: 'It broke.', finished_at: 1066 });

function newMemory(): Memory {
  const kept: Record<string, string> = {};
  return { getItem: name => kept[name] ?? null, setItem: (name, value) => (kept[name] = value) };
}

describe('endText', () => {
  it.each([
    [ENDED, 'train: failed after 0:01:05 · exit code 3 · It broke.'],
    [
      job({ state: 'SUCCEEDED', exit_code: 0, finished_at: 1066 }),
      'train: succeeded after 0:01:05'
    ],
    [job({ state: 'CANCELLED', started_at: null }), 'train: cancelled']
  ])('says of %j: %s', (ended, text) => {
    expect(endText(ended, trans)).toBe(text);
  });
});

describe('attemptText', () => {
  it.each([
    [{}, ''],
    [{ attempt: 1, attempts: 1 }, ''],
    [{ attempt: 2, attempts: 3 }, 'attempt 2 of 3']
  ])('says of %j: %s', (changes, text) => {
    expect(attemptText(job(changes), trans)).toBe(text);
  });
});

describe('EndWatch', () => {
  let server: IApiServer;
  let jobs: IJob[];
  const made: { dispose(): void }[] = [];

  beforeEach(async () => {
    jobs = [job(), job({ id: 'before', state: 'SUCCEEDED' })];
    server = await serve({
      'GET jobs': (_request, response) => answer(response, 200, { jobs })
    });
  });

  afterEach(async () => {
    made.splice(0).forEach(each => each.dispose());
    await server.close();
  });

  function page(memory: Memory): { watch: EndWatch; model: DLEnvModel; announced: IJob[] } {
    const model = new DLEnvModel(server.settings);
    const announced: IJob[] = [];
    const announce = (ended: IJob) => announced.push(ended);
    const watch = new EndWatch({ model, memory, anyRunning: () => false, announce });
    made.push(watch, model);
    return { watch, model, announced };
  }

  it('announces once what ran and has ended, on one page', async () => {
    const memory = newMemory();
    const pages = [page(memory), page(memory)];
    await Promise.all(pages.map(({ model }) => model.refreshJobs()));
    jobs = [ENDED, jobs[1]];
    for (const { model } of [...pages, ...pages]) {
      await model.refreshJobs();
    }
    expect(pages.map(({ announced }) => announced)).toEqual([[ENDED], []]);
  });

  it('is silent on what a page never saw running', async () => {
    jobs = [ENDED];
    const { model, announced } = page(newMemory());
    await model.refreshJobs();
    expect(announced).toEqual([]);
  });

  const QUICK = job({ id: 'quick', state: 'SUCCEEDED', started_at: 2000, finished_at: 2001 });

  it('announces once what began and ended between two looks', async () => {
    const { model, announced } = page(newMemory());
    await model.refreshJobs();
    jobs = [QUICK, ...jobs];
    await model.refreshJobs();
    await model.refreshJobs();
    expect(announced).toEqual([QUICK]);
  });

  it.each([
    ['ran when an earlier page looked', () => [ENDED, jobs[1]], [ENDED]],
    ['came and went while there was no page', () => [QUICK, ...jobs], [QUICK]],
    ['is of another server at the same address', () => [QUICK], []]
  ])('after a reload, of what %s', async (_what, later, wanted) => {
    const memory = newMemory();
    const earlier = page(memory);
    await earlier.model.refreshJobs();
    earlier.watch.dispose();
    jobs = later();
    const pages = [page(memory), page(memory)];
    for (const { model } of [...pages, ...pages]) {
      await model.refreshJobs();
    }
    expect(pages.flatMap(({ announced }) => announced)).toEqual(wanted);
  });

  it('knows nothing from a change that came before the first list of jobs', async () => {
    jobs = [ENDED];
    const { model, announced } = page(newMemory());
    await model.stopKernel('kernel', () => Promise.resolve());
    expect(announced).toEqual([]);
  });

  it('looks once by itself, though nothing seems to run', async () => {
    jobs = [ENDED];
    const { model, announced } = page(newMemory());
    while (!model.jobs.loaded) {
      await new Promise(resolve => setTimeout(resolve, 10));
    }
    expect(announced).toEqual([]);
  });

  it('is silent on a job whose log is looked at', async () => {
    const { model, announced } = page(newMemory());
    await model.refreshJobs();
    const log = model.log(JOB_ID);
    made.unshift(log);
    log.start();
    jobs = [ENDED];
    await model.refreshJobs();
    log.pause();
    await model.refreshJobs();
    expect(announced).toEqual([]);
  });
});
