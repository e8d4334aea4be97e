import { ServerConnection } from '@jupyterlab/services';
import type { IncomingMessage, ServerResponse } from 'http';
import { createServer } from 'http';
import type { AddressInfo } from 'net';

import type { IEnvironment, IJob } from '../tokens';

export const JOB_ID = '5ab4c0de-0000-4000-8000-000000000000';

type Handler = (request: IncomingMessage, response: ServerResponse, url: URL) => void;

/** A real HTTP server for one test. */
export interface IApiServer {
  readonly settings: ServerConnection.ISettings;
  /** `METHOD path?query`, without the cache buster that JupyterLab adds. */
  readonly requests: string[];
  close(): Promise<void>;
}

/** Serve the table, whose keys are `METHOD path` below the API's root; anything else is Jupyter's own 404. */
export async function serve(table: Record<string, Handler>): Promise<IApiServer> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://localhost');
    const route = `${request.method} ${url.pathname.replace('/base/dlenv/api/v1/', '')}`;
    requests.push(route + url.search.replace(/[?&]\d+$/, ''));
    const handler = table[route];
    if (handler) {
      handler(request, response, url);
    } else {
      answer(response, 404, { message: 'Not Found', reason: null });
    }
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const settings = ServerConnection.makeSettings({ baseUrl: `http://127.0.0.1:${port}/base/` });
  return { settings, requests, close: () => closed(server) };
}

function closed(server: ReturnType<typeof createServer>): Promise<void> {
  server.closeAllConnections();
  return new Promise(resolve => server.close(() => resolve()));
}

export function answer(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body));
}

/** Answer always the same. */
export function always(status: number, body: unknown): Handler {
  return (_request, response) => answer(response, status, body);
}

export function frame(header: object, body = ''): string {
  const bytes = Buffer.byteLength(body);
  return JSON.stringify({ state: 'RUNNING', open_lines: {}, ...header, bytes }) + '\n' + body;
}

export function job(changes: Partial<IJob> = {}): IJob {
  return {
    id: JOB_ID,
    name: 'train',
    state: 'RUNNING',
    exit_code: null,
    message: '',
    engine: 'process',
    image: '',
    environment: '',
    command: 'train.py',
    created_at: 1000,
    started_at: 1001,
    finished_at: null,
    log_path: '/var/log/job',
    log_bytes: 0,
    ...changes
  };
}

export function environment(changes: Partial<IEnvironment> = {}): IEnvironment {
  return {
    name: 'torch',
    display_name: '',
    engine: 'docker',
    image: 'img:1',
    gpus: '',
    gpu_memory: '',
    shared: false,
    ...changes
  };
}
