import type { ServerResponse } from 'http';

import type { JobLog } from '../joblog';
import { lastLines, StreamSlots } from '../joblog';
import { DLEnvModel } from '../model';
import type { IApiServer } from './apiserver';
import { always, answer, frame, job, JOB_ID, serve } from './apiserver';

const ENDED = job({ state: 'SUCCEEDED', exit_code: 0, finished_at: 1005 });
const LOG = `GET jobs/${JOB_ID}/log`;
const JOB = `GET jobs/${JOB_ID}`;

let server: IApiServer;
let model: DLEnvModel;
let opened: JobLog;

async function open(...table: Parameters<typeof serve>): Promise<JobLog> {
  server = await serve(...table);
  model = new DLEnvModel(server.settings);
  opened = model.log(JOB_ID);
  return opened;
}

/** Resolve when the condition holds after a change. */
function until(log: JobLog, condition: () => boolean): Promise<void> {
  return new Promise(resolve => {
    const check = () => {
      if (condition()) {
        log.changed.disconnect(check);
        resolve();
      }
    };
    log.changed.connect(check);
    check();
  });
}

function linesOf({ lines }: JobLog): string[] {
  return Array.from({ length: lines.length }, (_, i) => lines.at(lines.first + i));
}

afterEach(async () => {
  opened.dispose(); // one that never ended would try again for ever
  model.dispose();
  await server.close();
});

describe('JobLog', () => {
  it('reads to the end, carriage returns and all', async () => {
    const log = await open({
      [JOB]: always(200, job()),
      [LOG]: (_request, response) => {
        response.write(frame({ cursor: 'c1', open_lines: { '0': ' 50%' } }, 'one\ntwo\n'));
        response.end(frame({ cursor: 'c2', job: ENDED }, ' 0%\r100%\nlast'));
      }
    });
    log.start();
    await until(log, () => log.phase === 'ended');
    expect(linesOf(log)).toEqual(['one', 'two', '100%', 'last']);
    expect([log.job, log.state, log.openLines]).toEqual([ENDED, 'SUCCEEDED', {}]);
    expect(server.requests).toEqual([JOB, `${LOG}?tail=4194304&follow=1`]);
  });

  it('goes on at the cursor after the connection broke inside a frame', async () => {
    const log = await open({
      [JOB]: always(200, job()),
      [LOG]: (_request, response, url) => {
        if (url.searchParams.get('cursor') === 'c1') {
          response.end(frame({ cursor: 'c2', job: ENDED }, 'two\nthree\n'));
          return;
        }
        response.write(
          frame({ cursor: 'c1' }, 'one\n') + frame({ cursor: 'c2' }, 'two\nthree\n').slice(0, -3)
        );
        setTimeout(() => response.destroy(), 50);
      }
    });
    const phases = new Set<string>();
    log.changed.connect(() => phases.add(log.phase));
    log.start();
    await until(log, () => log.phase === 'ended');
    expect(linesOf(log)).toEqual(['one', 'two', 'three']);
    expect([...phases]).toEqual(['idle', 'reading', 'retrying', 'ended']);
  });

  it('shows the unfinished lines of ranks, and fetches the times of a new state', async () => {
    let described = job({ state: 'PENDING', started_at: null });
    const log = await open({
      [JOB]: (_request, response) => answer(response, 200, described),
      [LOG]: (_request, response) => {
        response.write(frame({ cursor: 'c0', state: 'PENDING' }));
        described = job();
        setTimeout(
          () => response.write(frame({ cursor: 'c1', open_lines: { '1': '5/9', '0': '6/9' } })),
          20
        );
      }
    });
    log.start();
    await until(log, () => log.state === 'RUNNING');
    expect(log.openLines).toEqual({ '1': '5/9', '0': '6/9' });
    expect(log.job?.started_at).toBe(1001);
    log.dispose();
  });

  it('says what a pending job waits for, until it starts', async () => {
    const send: Record<string, () => void> = {};
    const log = await open({
      [JOB]: always(200, job({ state: 'PENDING', message: 'Place 2 in the queue.' })),
      [LOG]: (_request, response) => {
        const pending = { cursor: 'c', state: 'PENDING' };
        send.place = () =>
          // Without a message the second one has no news.
          response.write(frame({ ...pending, message: 'Place 1.' }) + frame(pending));
        send.start = () => response.write(frame({ cursor: 'c1' }, 'up\n'));
        response.flushHeaders();
      }
    });
    const said: string[] = [];
    log.changed.connect(() => said.push(log.waitsFor));
    log.start();
    await until(log, () => log.waitsFor === 'Place 2 in the queue.');
    while (!send.place) {
      await new Promise(resolve => setTimeout(resolve, 5));
    }
    send.place();
    await until(log, () => said.length === 3);
    send.start();
    await until(log, () => log.lines.length === 1);
    expect(said).toEqual(['Place 2 in the queue.', 'Place 1.', 'Place 1.', '']);
    log.dispose();
  });

  it('says so when the server does not know the job', async () => {
    const gone = { error: 'JobNotFound', message: 'No job of yours has this id.', hint: '' };
    const log = await open({ [JOB]: always(404, gone) });
    log.start();
    await until(log, () => log.phase === 'missing');
    expect(log.error).toMatchObject({ message: 'No job of yours has this id.' });
    expect(server.requests).toEqual([JOB]);
  });

  it('stops reading in a pause and repeats nothing after it', async () => {
    const log = await open({
      [JOB]: always(200, job()),
      [LOG]: (_request, response, url) => {
        const body = url.searchParams.get('cursor') === 'c1' ? 'two\n' : 'one\n';
        response.write(
          frame(body === 'one\n' ? { cursor: 'c1' } : { cursor: 'c2', job: ENDED }, body)
        );
      }
    });
    log.start();
    await until(log, () => log.lines.length === 1);
    log.pause();
    log.start();
    await until(log, () => log.phase === 'ended');
    expect(linesOf(log)).toEqual(['one', 'two']);
    log.dispose();
  });

  it('polls when too many logs are open already', async () => {
    const log = await open({
      [JOB]: always(200, job()),
      [LOG]: (_request, response) => response.write(frame({ cursor: 'c' }))
    });
    const others = [model.log(JOB_ID), model.log(JOB_ID), model.log(JOB_ID)];
    others.forEach(other => other.start());
    await Promise.all(others.map(other => until(other, () => other.phase === 'reading')));
    log.start();
    await until(log, () => log.phase === 'reading');
    const follows = server.requests
      .filter(request => request.startsWith(LOG))
      .map(request => request.slice(-1));
    expect(follows).toEqual(['1', '1', '1', '0']);
    [log, ...others].forEach(other => other.dispose());
  });

  it('knows when the beginning of the log is not here', async () => {
    const log = await open({
      [JOB]: always(200, job({ log_bytes: 1e9 })),
      [LOG]: (_request, response) => response.end(frame({ cursor: 'c', job: ENDED }, 'end\n'))
    });
    log.start();
    await until(log, () => log.phase === 'ended');
    expect(log.shortened).toBe(true);
  });
});

describe('JobLog of several processes', () => {
  const body = 'up\n[1] up\n[1] alone\n';
  const end = (_request: unknown, response: ServerResponse) =>
    void response.end(frame({ cursor: 'c', job: ENDED }, body));

  it('shows what they write alike as one line', async () => {
    const log = await open({ [JOB]: always(200, job({ nodes: 1, nproc: 2 })), [LOG]: end });
    log.start();
    await until(log, () => log.phase === 'ended');
    expect(linesOf(log)).toEqual(['[0-1] up', '[1] alone']);
  });

  it('leaves alone what a single one writes', async () => {
    const log = await open({ [JOB]: always(200, job({ nodes: 1, nproc: 1 })), [LOG]: end });
    log.start();
    await until(log, () => log.phase === 'ended');
    expect(linesOf(log)).toEqual(['up', '[1] up', '[1] alone']);
  });

  it('fetches the job again when another attempt begins', async () => {
    let attempt = 1;
    const log = await open({
      [JOB]: (_request, response) => answer(response, 200, job({ attempt, attempts: 3 })),
      [LOG]: (_request, response) => {
        response.write(frame({ cursor: 'c1', attempt: 1 }, 'one\n'));
        attempt = 2;
        setTimeout(() => response.write(frame({ cursor: 'c2', attempt: 2 }, 'two\n')), 20);
      }
    });
    log.start();
    await until(log, () => log.job?.attempt === 2);
    await until(log, () => log.lines.length === 2);
    log.dispose();
  });

  it('is read between start and pause', async () => {
    const log = await open({ [JOB]: always(200, job()), [LOG]: end });
    expect(model.isShown(JOB_ID)).toBe(false);
    log.start();
    expect([log.isRead, model.isShown(JOB_ID), model.isShown('other')]).toEqual([
      true,
      true,
      false
    ]);
    await until(log, () => log.phase === 'ended');
    expect(model.isShown(JOB_ID)).toBe(true);
    log.pause();
    expect(model.isShown(JOB_ID)).toBe(false);
  });
});

describe('lastLines', () => {
  it.each([
    ['', 3, []],
    ['\n', 3, ['']],
    ['a', 3, ['a']],
    ['a\nb\n', 3, ['a', 'b']],
    ['a\nb\nc\nd\n', 3, ['b', 'c', 'd']],
    ['a\nb\nc\nd', 3, ['b', 'c', 'd']],
    ['a\n\n\n', 2, ['', '']],
    ['中\n文\n', 1, ['文']]
  ])('takes of %j the last %d', (text, most, lines) => {
    expect(lastLines(new TextEncoder().encode(text), most)).toEqual(lines);
  });
});

describe('StreamSlots', () => {
  it('gives no more than it has', () => {
    const slots = new StreamSlots(1);
    expect([slots.take(), slots.take()]).toEqual([true, false]);
    slots.give();
    expect(slots.take()).toBe(true);
  });
});
