import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILabShell, ILayoutRestorer } from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget, Notification, WidgetTracker } from '@jupyterlab/apputils';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ITranslator } from '@jupyterlab/translation';

import { actionsOf, addCommands } from './commands';
import { browserMemory, DeathWatch } from './deaths';
import { EndWatch } from './ends';
import { EnvironmentOutput, switchKernel } from './environmentoutput';
import { loadBundle } from './i18n';
import { dlenvIcon } from './icons';
import { JobOutput } from './joboutput';
import { LogView } from './logview';
import { deathText, endText } from './messages';
import { DLEnvModel } from './model';
import { Sidebar } from './sidebar';
import {
  CommandIDs,
  hasEnded,
  IDLEnvModel,
  JOB_MIME_TYPE,
  NAMESPACE,
  SWITCH_MIME_TYPE
} from './tokens';

const SIDEBAR_RANK = 550;
const ANNOUNCEMENT_MS = 10_000;

/** The sidebar, its commands and the tabs with logs. */
export const main: JupyterFrontEndPlugin<DLEnvModel> = {
  id: 'jupyter-dlenv:plugin',
  description: 'Lists environments, container kernels and jobs, and shows the logs of jobs.',
  autoStart: true,
  provides: IDLEnvModel,
  optional: [ITranslator, ILayoutRestorer, ICommandPalette, ILabShell],
  activate: (
    app: JupyterFrontEnd,
    translator: ITranslator | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    labShell: ILabShell | null
  ): DLEnvModel => {
    const trans = loadBundle(translator);
    const model = new DLEnvModel(app.serviceManager.serverSettings);
    const sidebar = new Sidebar({
      model,
      trans,
      actions: actionsOf(app.commands),
      translator: translator ?? undefined
    });
    app.shell.add(sidebar, 'left', { rank: SIDEBAR_RANK, type: 'Deep learning' });
    restorer?.add(sidebar, sidebar.id);
    model.environmentsChanged.connect(() => void app.serviceManager.kernelspecs.refreshSpecs());
    const logs = new LogTabs(app, model, trans, labShell ? 'main' : 'right');
    void restorer?.restore(logs.tracker, {
      command: CommandIDs.openLog,
      args: ({ content }) => ({ jobId: content.jobId, name: content.jobName }),
      name: ({ content }) => content.jobId
    });
    addCommands({
      app,
      model,
      trans,
      openSidebar: () => app.shell.activateById(sidebar.id),
      openLog: (jobId, name) => logs.open(jobId, name)
    });
    watchDeaths(app, model, trans);
    watchEnds(app, model, trans);
    for (const command of [CommandIDs.open, CommandIDs.refresh]) {
      palette?.addItem({ command, category: trans.__('Deep Learning') });
    }
    return model;
  }
};

/** Announce kernels that died, with the way to their last lines. */
function watchDeaths(app: JupyterFrontEnd, model: DLEnvModel, trans: TranslationBundle): void {
  const { kernels } = app.serviceManager;
  const watch = new DeathWatch({
    model,
    memory: browserMemory(),
    anyRunning: () => kernels.runningCount > 0,
    announce: kernel =>
      void Notification.emit(
        deathText(kernel, trans),
        hasEnded(kernel.state) ? 'error' : 'warning',
        {
          autoClose: false,
          actions: [
            {
              label: trans.__('Show'),
              caption: trans.__('Show its last lines'),
              callback: () => void app.commands.execute(CommandIDs.open)
            }
          ]
        }
      )
  });
  kernels.runningChanged.connect(() => watch.check());
  kernels.disposed.connect(() => watch.dispose());
}

/** Announce jobs that ended while nobody looked at them, with the way to their logs. */
function watchEnds(app: JupyterFrontEnd, model: DLEnvModel, trans: TranslationBundle): void {
  const { kernels } = app.serviceManager;
  const watch = new EndWatch({
    model,
    memory: browserMemory(),
    anyRunning: () => kernels.runningCount > 0,
    announce: job => {
      const bad = job.state === 'FAILED' || job.state === 'LOST';
      Notification.emit(endText(job, trans), bad ? 'error' : 'success', {
        autoClose: bad ? false : ANNOUNCEMENT_MS,
        actions: [
          {
            label: trans.__('Show log'),
            caption: trans.__('Show the log of %1', job.name),
            callback: () => actionsOf(app.commands).openLog(job.id, job.name)
          }
        ]
      });
    }
  });
  kernels.disposed.connect(() => watch.dispose());
}

/** What `%dlrun` shows in a notebook. */
export const jobOutput: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-dlenv:job-output',
  description: 'Shows the state and the live log of a job in the output of a cell.',
  autoStart: true,
  requires: [IDLEnvModel],
  optional: [IRenderMimeRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: DLEnvModel,
    rendermime: IRenderMimeRegistry | null,
    translator: ITranslator | null
  ): void => {
    const trans = loadBundle(translator);
    const actions = actionsOf(app.commands);
    rendermime?.addFactory(
      {
        safe: true,
        mimeTypes: [JOB_MIME_TYPE],
        createRenderer: () =>
          new JobOutput({
            unreadable: trans.__('This output names no job.'),
            view: ({ job_id, name, state }) =>
              new LogView({
                model,
                trans,
                name,
                jobId: job_id,
                lastState: state,
                onStop: force => actions.stopJob(job_id, force),
                onOpen: () => actions.openLog(job_id, name)
              })
          })
      },
      0
    );
  }
};

/** What the picker shows in a notebook once it wrote an environment. */
export const environmentOutput: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-dlenv:environment-output',
  description: 'Offers to switch a notebook to an environment, in the output of a cell.',
  autoStart: true,
  optional: [IRenderMimeRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    rendermime: IRenderMimeRegistry | null,
    translator: ITranslator | null
  ): void => {
    const trans = loadBundle(translator);
    rendermime?.addFactory(
      {
        safe: true,
        mimeTypes: [SWITCH_MIME_TYPE],
        createRenderer: () =>
          new EnvironmentOutput({
            trans,
            onSwitch: (name, from) => void switchKernel(app, name, from, trans)
          })
      },
      0
    );
  }
};

/** One tab for each log that is open. Notebook 7 has room for one main widget, so there the logs go beside it. */
class LogTabs {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _model: DLEnvModel,
    private readonly _trans: TranslationBundle,
    private readonly _area: 'main' | 'right'
  ) {}

  readonly tracker = new WidgetTracker<MainAreaWidget<LogView>>({ namespace: `${NAMESPACE}-logs` });

  open(jobId: string, name: string): void {
    const tab =
      this.tracker.find(({ content }) => content.jobId === jobId) ?? this._add(jobId, name);
    this._app.shell.activateById(tab.id);
  }

  private _add(jobId: string, name: string): MainAreaWidget<LogView> {
    const actions = actionsOf(this._app.commands);
    const content = new LogView({
      jobId,
      name,
      model: this._model,
      trans: this._trans,
      onStop: force => actions.stopJob(jobId, force)
    });
    const tab = new MainAreaWidget({ content });
    tab.toolbar.hide();
    tab.id = `${NAMESPACE}-log-${jobId}`;
    tab.title.label = name || this._trans.__('Log');
    tab.title.caption = this._trans.__('Log of %1', name || jobId);
    tab.title.icon = dlenvIcon;
    tab.title.closable = true;
    void this.tracker.add(tab);
    this._app.shell.add(tab, this._area);
    return tab;
  }
}
