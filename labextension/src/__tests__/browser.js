// What browsers have, JupyterLab's modules ask for when they are loaded, and jsdom lacks.
if (typeof window !== 'undefined') {
  window.DragEvent ??= class DragEvent extends window.MouseEvent {};
  window.matchMedia ??= query => Object.assign(new EventTarget(), { matches: false, media: query });
}
