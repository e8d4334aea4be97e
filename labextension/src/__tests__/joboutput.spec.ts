/**
 * @jest-environment jsdom
 */
import { MimeModel } from '@jupyterlab/rendermime';
import { nullTranslator } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { JobLog, StreamSlots } from '../joblog';
import { JobOutput } from '../joboutput';
import { LogView } from '../logview';
import type { DLEnvModel } from '../model';
import { JOB_MIME_TYPE } from '../tokens';
import { frame, job, JOB_ID } from './apiserver';

const PENDING = job({ state: 'PENDING', message: 'Place 2 in the queue.', started_at: null });

/** A log's stream whose frames a test hands over one by one. */
class Frames {
  push(text: string): void {
    this._chunks.push({ done: false, value: Uint8Array.from(Buffer.from(text)) });
    this._wake();
  }

  getReader(): object {
    return { read: () => this._read(), cancel: async () => undefined };
  }

  private async _read(): Promise<object | undefined> {
    while (this._chunks.length === 0) {
      await new Promise<void>(resolve => (this._wake = resolve));
    }
    return this._chunks.shift();
  }

  private _chunks: object[] = [];
  private _wake: () => void = () => undefined;
}

function modelOf(frames: Frames): DLEnvModel {
  const source = { job: async () => PENDING, open: async () => frames as never };
  const log = (id: string) => new JobLog(id, source, new StreamSlots());
  const model = { log, stopping: new Set() };
  return Object.assign(model, { stateChanged: new Signal(model) }) as never;
}

async function show(model: DLEnvModel, onStop: (force: boolean) => void): Promise<JobOutput> {
  const trans = nullTranslator.load('jupyter_dlenv');
  const output = new JobOutput({
    unreadable: '',
    view: ({ job_id: jobId, name }) => new LogView({ jobId, name, model, trans, onStop })
  });
  const data = { job_id: JOB_ID, name: 'train', state: 'PENDING' };
  Widget.attach(output, document.body);
  await output.renderModel(new MimeModel({ data: { [JOB_MIME_TYPE]: data } }));
  return output;
}

let output: JobOutput;

afterEach(() => output.dispose());

/** Expect that these notes come to stand between header and log. */
async function expectNotes(...notes: string[]): Promise<void> {
  const drawn = () => output.node.querySelector('.jp-dlenv-LogHeader') !== null;
  const shown = () => [...output.node.querySelectorAll('.jp-dlenv-Note')].map(n => n.textContent);
  const end = Date.now() + 10_000;
  while (Date.now() < end && !(drawn() && String(shown()) === String(notes))) {
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  expect([drawn(), shown()]).toEqual([true, notes]);
}

describe('JobOutput', () => {
  it('shows what a pending job waits for in place of its log, until it starts', async () => {
    const frames = new Frames();
    const stops: boolean[] = [];
    output = await show(modelOf(frames), force => stops.push(force));
    await expectNotes('Place 2 in the queue.');
    frames.push(frame({ cursor: 'c', state: 'PENDING', message: 'Place 1 in the queue.' }));
    await expectNotes('Place 1 in the queue.');
    const buttons = [...output.node.querySelectorAll('button')];
    buttons.find(button => button.textContent === 'Stop')?.click();
    expect(stops).toEqual([false]);
    frames.push(frame({ cursor: 'c1' }, 'up\n'));
    await expectNotes();
  }, 40_000);
});
