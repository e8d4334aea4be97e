import type { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { refreshIcon, SidePanel, ToolbarButton, VDomRenderer } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import { dlenvIcon } from './icons';
import type { DLEnvModel } from './model';
import { EnvironmentsSection, JobsSection, KernelsSection } from './sections';
import type { TerminalKind } from './tokens';

/** What the buttons of the sidebar do. */
export interface IActions {
  startNotebook(environment: string): void;
  stopKernel(id: string): void;
  cancelKernel(id: string): void;
  stopJob(id: string, force: boolean): void;
  openLog(jobId: string, name: string): void;
  openTerminal(kind: TerminalKind, id: string): void;
  refresh(): void;
}

interface ISidebarOptions {
  readonly model: DLEnvModel;
  readonly actions: IActions;
  readonly trans: TranslationBundle;
  readonly translator?: ITranslator;
}

/** Environments, kernels and jobs; asks the server only while it can be seen. */
export class Sidebar extends SidePanel {
  constructor(options: ISidebarOptions) {
    super({ translator: options.translator });
    const { model, actions, trans } = options;
    this._model = model;
    this.id = 'jupyter-dlenv-sidebar';
    this.addClass('jp-dlenv-Sidebar');
    this.title.icon = dlenvIcon;
    this.title.caption = trans.__('Deep learning environments');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', this.title.caption);
    this.toolbar.addItem('refresh', refreshButton(actions, trans));
    this.addWidget(new EnvironmentsList(trans.__('Environments'), model, actions, trans));
    this.addWidget(new KernelsList(trans.__('Kernels'), model, actions, trans));
    this.addWidget(new JobsList(trans.__('Jobs'), model, actions, trans));
  }

  protected override onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    if (this.isVisible) {
      this._model.watch();
    }
  }

  protected override onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._model.watch();
  }

  protected override onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    this._model.rest();
  }

  protected override onBeforeDetach(msg: Message): void {
    this._model.rest();
    super.onBeforeDetach(msg);
  }

  private _model: DLEnvModel;
}

function refreshButton(actions: IActions, trans: TranslationBundle): ToolbarButton {
  return new ToolbarButton({
    icon: refreshIcon,
    onClick: () => actions.refresh(),
    tooltip: trans.__('Refresh environments, kernels and jobs')
  });
}

abstract class SectionList extends VDomRenderer<DLEnvModel> {
  constructor(
    label: string,
    model: DLEnvModel,
    protected actions: IActions,
    protected trans: TranslationBundle
  ) {
    super(model);
    this.addClass('jp-dlenv-Section');
    this.title.label = label;
  }
}

class EnvironmentsList extends SectionList {
  protected override render(): JSX.Element {
    return React.createElement(EnvironmentsSection, {
      section: this.model.environments,
      trans: this.trans,
      onStart: name => this.actions.startNotebook(name)
    });
  }
}

class KernelsList extends SectionList {
  protected override render(): JSX.Element {
    return React.createElement(KernelsSection, {
      section: this.model.kernels,
      stopping: this.model.stopping,
      trans: this.trans,
      onStop: id => this.actions.stopKernel(id),
      onCancel: id => this.actions.cancelKernel(id),
      onTerminal: id => this.actions.openTerminal('kernels', id)
    });
  }
}

class JobsList extends SectionList {
  protected override render(): JSX.Element {
    return React.createElement(JobsSection, {
      section: this.model.jobs,
      stopping: this.model.stopping,
      trans: this.trans,
      now: Date.now() / 1000,
      onStop: (id, force) => this.actions.stopJob(id, force),
      onLog: (id, name) => this.actions.openLog(id, name),
      onTerminal: id => this.actions.openTerminal('jobs', id)
    });
  }
}
