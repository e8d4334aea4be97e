import { DLEnvModel } from '../model';
import { ApiError, requestAPI } from '../request';
import type { IApiServer } from './apiserver';
import { always, answer, environment, job, JOB_ID, serve } from './apiserver';

const ENVIRONMENT = environment();
const KERNEL = { id: 'k', environment: 'torch', image: 'img:1', state: 'RUNNING' };

let server: IApiServer;
let model: DLEnvModel;

async function start(...table: Parameters<typeof serve>): Promise<void> {
  server = await serve(...table);
  model = new DLEnvModel(server.settings);
}

afterEach(async () => {
  model.dispose();
  await server.close();
});

describe('DLEnvModel', () => {
  it('lists what the server lists', async () => {
    await start({
      'GET environments': always(200, { environments: [ENVIRONMENT] }),
      'GET kernels': always(200, { kernels: [KERNEL] }),
      'GET jobs': always(200, { jobs: [job()] })
    });
    await model.refresh();
    expect(model.environments).toEqual({ items: [ENVIRONMENT], loaded: true, error: null });
    expect(model.kernels.items).toEqual([KERNEL]);
    expect(model.jobs.items).toEqual([job()]);
  });

  it('keeps the other lists, and the old items, when one cannot be had', async () => {
    const down = {
      error: 'EngineUnavailable',
      message: 'Docker does not answer.',
      hint: 'systemctl start docker'
    };
    let kernelsFail = false;
    await start({
      'GET environments': always(200, { environments: [] }),
      'GET kernels': (_request, response) =>
        kernelsFail ? answer(response, 503, down) : answer(response, 200, { kernels: [KERNEL] }),
      'GET jobs': always(200, { jobs: [] })
    });
    await model.refresh();
    kernelsFail = true;
    await model.refresh();
    expect(model.jobs.error).toBeNull();
    expect(model.kernels.items).toEqual([KERNEL]);
    expect(model.kernels.error).toMatchObject({
      status: 503,
      kind: 'EngineUnavailable',
      message: 'Docker does not answer.',
      hint: 'systemctl start docker'
    });
  });

  it('asks by itself while it is watched, and not after', async () => {
    await start({});
    model.watch();
    await new Promise(resolve => model.stateChanged.connect(resolve));
    model.rest();
    expect(server.requests.sort()).toEqual(['GET environments', 'GET jobs', 'GET kernels']);
  });

  it('says when environments came or went', async () => {
    const environments = [ENVIRONMENT];
    await start({
      'GET environments': (_request, response) => answer(response, 200, { environments }),
      'GET kernels': always(200, { kernels: [] }),
      'GET jobs': always(200, { jobs: [] })
    });
    const changes: number[] = [];
    model.environmentsChanged.connect(() => changes.push(model.environments.items.length));
    await model.refresh();
    await model.refresh();
    environments.push({ ...ENVIRONMENT, name: 'jax' });
    await model.refresh();
    expect(changes).toEqual([2]);
  });

  it('stops a job, gently first', async () => {
    const bodies: string[] = [];
    await start({
      [`POST jobs/${JOB_ID}/cancel`]: (request, response) => {
        request.on('data', data => bodies.push(`${request.headers['content-type']} ${data}`));
        request.on('end', () => answer(response, 200, job()));
      }
    });
    await model.stopJob(JOB_ID, false);
    expect(model.stopping.has(JOB_ID)).toBe(true);
    await model.stopJob(JOB_ID, true);
    expect(bodies).toEqual(['application/json {"force":false}', 'application/json {"force":true}']);
  });

  it('shows a kernel as stopping only as long as it is being stopped', async () => {
    await start({ 'GET kernels': always(200, { kernels: [KERNEL] }) });
    const during: boolean[] = [];
    await model.stopKernel('k', async () => {
      during.push(model.stopping.has('k'));
    });
    expect(during).toEqual([true]);
    expect(model.stopping.has('k')).toBe(false);
  });

  it('takes a kernel out of the queue, which counts as stopping until its start has noticed', async () => {
    const queued = { ...KERNEL, id: JOB_ID, state: 'QUEUED', message: 'Place 2 in the queue.' };
    const listed = [queued];
    const cancels: string[] = [];
    await start({
      'GET kernels': (_request, response) => answer(response, 200, { kernels: listed }),
      [`POST kernels/${JOB_ID}/cancel`]: (request, response) => {
        cancels.push(`${request.headers['content-type']}`);
        response.writeHead(204).end();
      }
    });
    await model.cancelKernel(JOB_ID);
    expect(cancels).toEqual(['application/json']);
    expect(server.requests).toContain('GET kernels');
    expect([model.kernels.items.length, model.stopping.has(JOB_ID)]).toEqual([1, true]);
    listed.pop();
    await model.refreshKernels();
    expect([model.kernels.items.length, model.stopping.has(JOB_ID)]).toEqual([0, false]);
  });

  it('leaves a kernel alone that waits no more', async () => {
    const refusal = { error: 'JobNotFound', message: 'No kernel waits.', hint: '' };
    await start({ [`POST kernels/${JOB_ID}/cancel`]: always(404, refusal) });
    await expect(model.cancelKernel(JOB_ID)).rejects.toMatchObject({ message: 'No kernel waits.' });
    expect(model.stopping.size).toBe(0);
  });

  it('opens a terminal and says its name', async () => {
    await start({ [`POST kernels/${JOB_ID}/terminal`]: always(201, { name: '3' }) });
    await expect(model.openTerminal('kernels', JOB_ID)).resolves.toBe('3');
  });

  it('asks for the kernels alone', async () => {
    await start({ 'GET kernels': always(200, { kernels: [KERNEL] }) });
    await model.refreshKernels();
    expect(model.kernels.items).toEqual([KERNEL]);
    expect(server.requests).toEqual(['GET kernels']);
  });

  it('does not call a job stopping that refused to', async () => {
    const refusal = { error: 'JobNotFound', message: 'No such job.', hint: '' };
    await start({ [`POST jobs/${JOB_ID}/cancel`]: always(404, refusal) });
    await expect(model.stopJob(JOB_ID, false)).rejects.toMatchObject({ kind: 'JobNotFound' });
    expect(model.stopping.size).toBe(0);
  });
});

describe('requestAPI', () => {
  it('tells a server without the extension from a missing thing', async () => {
    await start({});
    const failed = requestAPI(server.settings, 'jobs');
    await expect(failed).rejects.toMatchObject({ status: 404, kind: 'NotServed' });
  });

  it('tells that nobody answers', async () => {
    await start({});
    await server.close();
    const failed = requestAPI(server.settings, 'jobs');
    await expect(failed).rejects.toBeInstanceOf(ApiError);
    await expect(failed).rejects.toMatchObject({ status: 0, kind: 'Unreachable' });
  });

  it('takes an empty answer', async () => {
    await start({ 'DELETE jobs/x': (_request, response) => response.writeHead(204).end() });
    await expect(
      requestAPI(server.settings, 'jobs/x', { method: 'DELETE' })
    ).resolves.toBeUndefined();
  });
});
