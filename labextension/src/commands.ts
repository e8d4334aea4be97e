import type { JupyterFrontEnd } from '@jupyterlab/application';
import { showErrorMessage } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { refreshIcon, terminalIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyJSONObject, ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { dlenvIcon } from './icons';
import { describeError } from './messages';
import type { DLEnvModel } from './model';
import type { IActions } from './sidebar';
import { CommandIDs, isJobId } from './tokens';

export interface ICommandOptions {
  readonly app: JupyterFrontEnd;
  readonly model: DLEnvModel;
  readonly trans: TranslationBundle;
  readonly openSidebar: () => void;
  readonly openLog: (jobId: string, name: string) => void;
}

/** Register everything that the buttons do, for palettes, menus and keyboard shortcuts too. */
export function addCommands(options: ICommandOptions): void {
  addViewCommands(options);
  addKernelCommands(options);
  addJobCommands(options);
  addTerminalCommand(options);
}

/** Return the sidebar's buttons as calls of commands. */
export function actionsOf(commands: CommandRegistry): IActions {
  const run = (id: string, args?: ReadonlyPartialJSONObject) => void commands.execute(id, args);
  return {
    startNotebook: environment => run(CommandIDs.startNotebook, { environment }),
    stopKernel: kernelId => run(CommandIDs.stopKernel, { kernelId }),
    cancelKernel: kernelId => run(CommandIDs.cancelKernel, { kernelId }),
    stopJob: (jobId, force) => run(CommandIDs.stopJob, { jobId, force }),
    openLog: (jobId, name) => run(CommandIDs.openLog, { jobId, name }),
    openTerminal: (kind, id) => run(CommandIDs.openTerminal, { kind, id }),
    refresh: () => run(CommandIDs.refresh)
  };
}

function addViewCommands({ app, model, trans, openSidebar }: ICommandOptions): void {
  app.commands.addCommand(CommandIDs.open, {
    label: trans.__('Show Deep Learning Environments'),
    icon: dlenvIcon,
    describedBy: { args: schema({}) },
    execute: openSidebar
  });
  app.commands.addCommand(CommandIDs.refresh, {
    label: trans.__('Refresh Deep Learning Environments'),
    icon: refreshIcon,
    describedBy: { args: schema({}) },
    execute: async () => {
      await Promise.all([model.refresh(), app.serviceManager.kernelspecs.refreshSpecs()]);
    }
  });
}

function addKernelCommands({ app, model, trans }: ICommandOptions): void {
  app.commands.addCommand(CommandIDs.startNotebook, {
    label: trans.__('New Notebook in an Environment'),
    describedBy: {
      args: schema({ environment: text(trans.__('Name of the environment.')) }, 'environment')
    },
    execute: args =>
      attempt(trans.__('The notebook could not be started'), trans, () =>
        startNotebook(app, String(args.environment), trans)
      )
  });
  app.commands.addCommand(CommandIDs.stopKernel, {
    label: trans.__('Shut Down a Container Kernel'),
    describedBy: { args: schema({ kernelId: text(trans.__('Id of the kernel.')) }, 'kernelId') },
    execute: args =>
      attempt(trans.__('The kernel could not be shut down'), trans, () => {
        const id = String(args.kernelId);
        return model.stopKernel(id, () => shutDown(app, id, trans));
      })
  });
  app.commands.addCommand(CommandIDs.cancelKernel, {
    label: trans.__('Take a Kernel Out of the Queue for GPUs'),
    describedBy: { args: schema({ kernelId: text(trans.__('Id of the kernel.')) }, 'kernelId') },
    execute: args =>
      attempt(trans.__('The kernel could not be taken out of the queue'), trans, async () =>
        model.cancelKernel(requireJobId(args.kernelId, trans))
      )
  });
}

function addJobCommands({ app, model, trans, openLog }: ICommandOptions): void {
  const jobId = text(trans.__('Id of the job.'));
  app.commands.addCommand(CommandIDs.stopJob, {
    label: trans.__('Stop a Job'),
    describedBy: {
      args: schema(
        { jobId, force: { type: 'boolean', description: trans.__('Kill it at once.') } },
        'jobId'
      )
    },
    execute: args =>
      attempt(trans.__('The job could not be stopped'), trans, () =>
        model.stopJob(requireJobId(args.jobId, trans), args.force === true)
      )
  });
  app.commands.addCommand(CommandIDs.openLog, {
    label: trans.__('Show the Log of a Job'),
    icon: dlenvIcon,
    describedBy: {
      args: schema({ jobId, name: text(trans.__('What to call the job.')) }, 'jobId')
    },
    execute: args =>
      attempt(trans.__('The log could not be shown'), trans, async () =>
        openLog(requireJobId(args.jobId, trans), String(args.name ?? ''))
      )
  });
}

function addTerminalCommand({ app, model, trans }: ICommandOptions): void {
  app.commands.addCommand(CommandIDs.openTerminal, {
    label: trans.__('Open a Terminal in a Container'),
    icon: terminalIcon,
    describedBy: {
      args: schema(
        {
          kind: { enum: ['kernels', 'jobs'], description: trans.__('What runs in the container.') },
          id: text(trans.__('Id of the kernel or job.'))
        },
        'kind',
        'id'
      )
    },
    execute: args =>
      attempt(trans.__('The terminal could not be opened'), trans, async () => {
        const kind = args.kind === 'jobs' ? 'jobs' : 'kernels';
        const name = await model.openTerminal(kind, requireJobId(args.id, trans));
        await app.commands.execute('terminal:open', { name });
      })
  });
}

/** JupyterLab takes a kernel that its server does not have for one that is gone already. */
async function shutDown(app: JupyterFrontEnd, id: string, trans: TranslationBundle): Promise<void> {
  const { kernels } = app.serviceManager;
  await kernels.refreshRunning();
  if (![...kernels.running()].some(kernel => kernel.id === id)) {
    throw new Error(
      trans.__(
        'This Jupyter server does not have the kernel: it still starts, or is of another server.'
      )
    );
  }
  await kernels.shutdown(id);
}

async function startNotebook(
  app: JupyterFrontEnd,
  environment: string,
  trans: TranslationBundle
): Promise<void> {
  await requireKernelspec(app, environment, trans);
  await app.commands.execute('notebook:create-new', { kernelName: environment });
}

/** Kernelspecs are asked for every minute only, and this one may be new. */
export async function requireKernelspec(
  app: JupyterFrontEnd,
  name: string,
  trans: TranslationBundle
): Promise<void> {
  const { kernelspecs } = app.serviceManager;
  await kernelspecs.refreshSpecs();
  if (!kernelspecs.specs?.kernelspecs[name]) {
    throw new Error(trans.__('Jupyter lists no kernel with the name %1.', name));
  }
}

function requireJobId(id: unknown, trans: TranslationBundle): string {
  if (!isJobId(id)) {
    throw new Error(trans.__('%1 is not the id of a job.', String(id)));
  }
  return id;
}

/** Do it, and show in a dialog why it could not be done. */
export async function attempt(
  title: string,
  trans: TranslationBundle,
  action: () => Promise<void>
): Promise<void> {
  try {
    await action();
  } catch (error) {
    const { message, hint } = describeError(error, trans);
    await showErrorMessage(title, hint ? `${message}\n${hint}` : message);
  }
}

function text(description: string): ReadonlyJSONObject {
  return { type: 'string', description };
}

function schema(properties: ReadonlyJSONObject, ...required: string[]): ReadonlyJSONObject {
  return { type: 'object', properties, required };
}
