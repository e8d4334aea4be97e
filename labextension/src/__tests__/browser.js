import { TextDecoder, TextEncoder } from 'util';

/** Node's own channel would keep a finished test run alive: React holds one open for ever. */
class TimedChannel {
  port1 = { onmessage: null, close: () => undefined };
  port2 = { postMessage: data => setTimeout(() => this.port1.onmessage?.({ data }), 0) };
}

// What browsers have, JupyterLab's modules ask for when they are loaded or we do later, and jsdom lacks.
if (typeof window !== 'undefined') {
  window.DragEvent ??= class DragEvent extends window.MouseEvent {};
  window.matchMedia ??= query => Object.assign(new EventTarget(), { matches: false, media: query });
  window.requestIdleCallback ??= callback => window.setTimeout(callback, 0);
  window.cancelIdleCallback ??= handle => window.clearTimeout(handle);
  window.MessageChannel ??= TimedChannel;
  window.TextDecoder ??= TextDecoder;
  window.TextEncoder ??= TextEncoder;
  window.AbortSignal.prototype.throwIfAborted ??= function () {
    if (this.aborted) {
      throw this.reason;
    }
  };
}
