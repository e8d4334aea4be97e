import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

const API = 'dlenv/api/v1';

/** Kinds of {@link ApiError} that the server does not send itself. */
export type LocalErrorKind = 'Unreachable' | 'NotServed' | 'HttpError';

/**
 * A request that did not succeed.
 *
 * `kind` is the server's word for it (`JobNotFound`, `Denied`, ...) or a {@link LocalErrorKind}; `hint` is the next
 * step, empty when nothing helps; `status` is 0 when nobody answered.
 */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
    readonly hint = ''
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

/**
 * Return the answer's JSON; undefined for an empty one.
 *
 * @throws ApiError
 */
export async function requestAPI<T>(
  settings: ServerConnection.ISettings,
  path: string,
  init: RequestInit = {}
): Promise<T> {
  // Browsers call a text body text/plain, which the server refuses.
  const headers = init.body ? { 'Content-Type': 'application/json' } : undefined;
  const response = await send(settings, path, { headers, ...init });
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/**
 * Return the answer's body as it arrives.
 *
 * @throws ApiError
 */
export async function requestStream(
  settings: ServerConnection.ISettings,
  path: string,
  signal: AbortSignal
): Promise<ReadableStream<Uint8Array>> {
  const response = await send(settings, path, { signal });
  if (!response.body) {
    throw new ApiError(response.status, 'HttpError', 'empty answer');
  }
  return response.body;
}

async function send(
  settings: ServerConnection.ISettings,
  path: string,
  init: RequestInit
): Promise<Response> {
  const url = URLExt.join(settings.baseUrl, API) + '/' + path;
  let response: Response;
  try {
    response = await ServerConnection.makeRequest(url, init, settings);
  } catch (error) {
    if (error instanceof ServerConnection.NetworkError && !init.signal?.aborted) {
      throw new ApiError(0, 'Unreachable', error.message);
    }
    throw error;
  }
  if (!response.ok) {
    throw errorFrom(response, await response.text());
  }
  return response;
}

function errorFrom(response: Response, text: string): ApiError {
  const fallback = `${response.status} ${response.statusText}`.trim();
  const { error, message, hint } = jsonObject(text);
  if (typeof error === 'string') {
    return new ApiError(response.status, error, String(message ?? fallback), String(hint ?? ''));
  }
  const kind: LocalErrorKind = response.status === 404 ? 'NotServed' : 'HttpError';
  return new ApiError(response.status, kind, String(message || fallback));
}

function jsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
