import { TextDecoder } from 'util';

// What browsers have, JupyterLab's modules ask for when they are loaded or we do later, and jsdom lacks.
if (typeof window !== 'undefined') {
  window.DragEvent ??= class DragEvent extends window.MouseEvent {};
  window.matchMedia ??= query => Object.assign(new EventTarget(), { matches: false, media: query });
  window.requestIdleCallback ??= callback => window.setTimeout(callback, 0);
  window.cancelIdleCallback ??= handle => window.clearTimeout(handle);
  window.TextDecoder ??= TextDecoder;
  window.AbortSignal.prototype.throwIfAborted ??= function () {
    if (this.aborted) {
      throw this.reason;
    }
  };
}
