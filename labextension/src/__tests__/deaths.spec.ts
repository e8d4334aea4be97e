import type { Memory } from '../deaths';
import { DeathWatch, newDeaths, remember, remembered } from '../deaths';
import { deathText } from '../messages';
import { DLEnvModel } from '../model';
import type { IKernel } from '../tokens';
import { nullTranslator } from '@jupyterlab/translation';
import type { IApiServer } from './apiserver';
import { answer, serve } from './apiserver';

const trans = nullTranslator.load('jupyter_dlenv');

function kernel(changes: Partial<IKernel> = {}): IKernel {
  const names = { id: 'k', environment: 'torch', image: 'img:1', engine: 'docker' };
  const end = { state: 'FAILED', message: 'Out of memory.', last_lines: '', ended_at: 7 } as const;
  return { ...names, ...end, ...changes };
}

function memoryOf(kept: Record<string, string> = {}): Memory {
  return {
    getItem: name => kept[name] ?? null,
    setItem: (name, value) => {
      kept[name] = value;
    }
  };
}

describe('newDeaths', () => {
  it('leaves out what lives and what is known', () => {
    const kernels = [
      kernel({ state: 'RUNNING', ended_at: null }),
      kernel(),
      kernel({ ended_at: 8 }),
      kernel({ id: 'other', state: 'LOST' }),
      kernel({ id: 'again', state: 'RUNNING' })
    ];
    expect(newDeaths(kernels, ['k 7'])).toEqual(kernels.slice(2));
  });
});

describe('what is remembered', () => {
  it('is the newest, and not too much', () => {
    const memory = memoryOf();
    remember(memory, ['first']);
    remember(
      memory,
      Array.from({ length: 200 }, (_, number) => `k ${number}`)
    );
    expect(remembered(memory)).toHaveLength(200);
    expect(remembered(memory)).not.toContain('first');
  });

  it.each(['{', '7', '{"a": 1}', '[1, null]'])('is nothing where %j was kept', kept => {
    expect(remembered(memoryOf({ 'jupyter-dlenv:announced-deaths': kept }))).toEqual([]);
  });

  it('is nothing in a browser that keeps nothing', () => {
    const memory: Memory = {
      getItem: () => null,
      setItem: () => {
        throw new Error('full');
      }
    };
    remember(memory, ['k 7']);
    expect(remembered(memory)).toEqual([]);
  });
});

describe('deathText', () => {
  it('says why', () => {
    expect(deathText(kernel(), trans)).toBe('Out of memory.');
    expect(deathText(kernel({ message: '', state: 'LOST' }), trans)).toBe(
      'The kernel of torch ended: lost'
    );
    expect(deathText(kernel({ message: '', state: 'RUNNING' }), trans)).toBe(
      'The kernel of torch ended and was started again.'
    );
  });
});

describe('DeathWatch', () => {
  let server: IApiServer;
  let kernels: IKernel[];
  const made: { dispose(): void }[] = [];

  beforeEach(async () => {
    kernels = [kernel()];
    server = await serve({
      'GET kernels': (_request, response) => answer(response, 200, { kernels })
    });
  });

  afterEach(async () => {
    made.splice(0).forEach(each => each.dispose());
    await server.close();
  });

  /** A page: a model and a watch, and what they announced. */
  function page(memory: Memory): { watch: DeathWatch; model: DLEnvModel; announced: IKernel[] } {
    const model = new DLEnvModel(server.settings);
    const announced: IKernel[] = [];
    const announce = (dead: IKernel) => announced.push(dead);
    const watch = new DeathWatch({ model, memory, anyRunning: () => false, announce });
    made.push(watch, model);
    return { watch, model, announced };
  }

  it('announces a death once, on this page and on the next', async () => {
    const memory = memoryOf();
    const first = page(memory);
    await first.model.refreshKernels();
    await first.model.refreshKernels();
    const second = page(memory);
    await second.model.refreshKernels();
    expect(first.announced).toEqual([kernel()]);
    expect(second.announced).toEqual([]);
    kernels = [kernel({ ended_at: 8 })];
    await second.model.refreshKernels();
    expect(second.announced).toEqual(kernels);
  });

  it('announces once where nothing can be kept', async () => {
    const { model, announced } = page({ getItem: () => null, setItem: () => undefined });
    await model.refreshKernels();
    await model.refreshKernels();
    expect(announced).toHaveLength(1);
  });
});
