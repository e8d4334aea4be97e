import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ISessionContext } from '@jupyterlab/apputils';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';

import { attempt, requireKernelspec } from './commands';
import { SWITCH_MIME_TYPE } from './tokens';

export interface IEnvironmentOutputOptions {
  readonly trans: TranslationBundle;
  /** `from` is the output, which lies inside the notebook to switch. */
  readonly onSwitch: (name: string, from: Widget) => void;
}

/** A button that gives a notebook the kernel of an environment. */
export class EnvironmentOutput extends Widget implements IRenderMime.IRenderer {
  constructor(private readonly _options: IEnvironmentOutputOptions) {
    super();
    this.addClass('jp-dlenv-EnvironmentOutput');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const name = environmentIn(model.data[SWITCH_MIME_TYPE]);
    const { trans, onSwitch } = this._options;
    if (name === null) {
      this.node.textContent = trans.__('This output names no environment.');
      return;
    }
    const button = document.createElement('button');
    button.className = 'jp-dlenv-Button';
    button.textContent = trans.__('Use %1 in this notebook', name);
    button.addEventListener('click', () => onSwitch(name, this));
    this.node.replaceChildren(button);
  }
}

/** Return the environment's name, null when the data has none. */
export function environmentIn(data: unknown): string | null {
  const name = typeof data === 'object' && data !== null ? (data as { name?: unknown }).name : null;
  return typeof name === 'string' && name !== '' ? name : null;
}

/** Give the document around the widget another kernel. */
export function switchKernel(
  app: JupyterFrontEnd,
  name: string,
  from: Widget,
  trans: TranslationBundle
): Promise<void> {
  return attempt(trans.__('The kernel could not be changed'), trans, async () => {
    await requireKernelspec(app, name, trans);
    const session = sessionAround(from) ?? sessionAround(app.shell.currentWidget);
    if (!session) {
      throw new Error(trans.__('This is no notebook with a kernel.'));
    }
    await session.changeKernel({ name });
  });
}

/** Notebooks and consoles hold a session; asking for no class of theirs, any document that has one will do. */
function sessionAround(widget: Widget | null): ISessionContext | null {
  for (let inside = widget; inside; inside = inside.parent) {
    if ('sessionContext' in inside) {
      return inside.sessionContext as ISessionContext;
    }
  }
  return null;
}
