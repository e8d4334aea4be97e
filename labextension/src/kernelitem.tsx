import type { TranslationBundle } from '@jupyterlab/translation';
import { stopIcon, terminalIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import { stateIcon } from './icons';
import { plainLines, stateText } from './messages';
import type { IKernel } from './tokens';
import { hasEnded, waitsForGpus } from './tokens';

export interface IKernelItemProps {
  readonly kernel: IKernel;
  readonly stopping: boolean;
  readonly trans: TranslationBundle;
  readonly onStop: (id: string) => void;
  readonly onCancel: (id: string) => void;
  readonly onTerminal: (id: string) => void;
}

/** A kernel on its way up, running, or dead with the reason. */
export function KernelItem(props: IKernelItemProps): JSX.Element {
  const { kernel, trans, onTerminal } = props;
  return (
    <li className="jp-dlenv-Item" data-kernel-state={kernel.state}>
      <div className="jp-dlenv-Item-text">
        <span className="jp-dlenv-Item-name">{kernel.environment}</span>
        <KernelState {...props} />
        <span className="jp-dlenv-Item-detail" title={kernel.image}>
          {kernel.image || trans.__('no container')}
        </span>
        {kernel.message && <span className="jp-dlenv-Item-message">{kernel.message}</span>}
      </div>
      {kernel.state === 'RUNNING' && kernel.engine === 'docker' && (
        <TerminalButton trans={trans} onClick={() => onTerminal(kernel.id)} />
      )}
      {!hasEnded(kernel.state) && <EndButton {...props} />}
      {kernel.last_lines && <LastLines text={kernel.last_lines} trans={trans} />}
    </li>
  );
}

function KernelState({ kernel, stopping, trans }: IKernelItemProps): JSX.Element {
  const StateIcon = stateIcon(kernel.state);
  const ending = stopping && !hasEnded(kernel.state);
  return (
    <span className="jp-dlenv-State">
      <StateIcon.react tag="span" className="jp-dlenv-Icon" />
      {ending ? trans.__('stopping…') : stateText(kernel.state, trans)}
    </span>
  );
}

/** Jupyter cannot shut down a kernel that it does not have yet. */
function EndButton(props: IKernelItemProps): JSX.Element {
  return waitsForGpus(props.kernel) ? (
    <CancelKernelButton {...props} />
  ) : (
    <StopKernelButton {...props} />
  );
}

function CancelKernelButton({ kernel, stopping, trans, onCancel }: IKernelItemProps): JSX.Element {
  const label = trans.__('Take this kernel out of the queue for GPUs');
  return (
    <KernelButton
      label={label}
      text={trans.__('Cancel')}
      ending={stopping}
      onEnd={() => onCancel(kernel.id)}
    />
  );
}

function StopKernelButton({ kernel, stopping, trans, onStop }: IKernelItemProps): JSX.Element {
  const label = trans.__('Shut down the kernel of %1', kernel.environment);
  return (
    <KernelButton
      label={label}
      text={trans.__('Stop')}
      ending={stopping}
      onEnd={() => onStop(kernel.id)}
    />
  );
}

interface IKernelButtonProps {
  readonly label: string;
  readonly text: string;
  readonly ending: boolean;
  readonly onEnd: () => void;
}

function KernelButton({ label, text, ending, onEnd }: IKernelButtonProps): JSX.Element {
  return (
    <button
      className="jp-dlenv-Button"
      aria-label={label}
      title={label}
      disabled={ending}
      onClick={onEnd}
    >
      <stopIcon.react tag="span" className="jp-dlenv-Icon" />
      {text}
    </button>
  );
}

interface ILastLinesProps {
  readonly text: string;
  readonly trans: TranslationBundle;
}

/** Folded, and left as the reader folded it however often the list is drawn. */
function LastLines({ text, trans }: ILastLinesProps): JSX.Element {
  return (
    <details className="jp-dlenv-LastLines">
      <summary>{trans.__('Last lines')}</summary>
      <pre>{plainLines(text)}</pre>
    </details>
  );
}

interface ITerminalButtonProps {
  readonly trans: TranslationBundle;
  readonly onClick: () => void;
}

/** Opens a terminal in a running container. */
export function TerminalButton({ trans, onClick }: ITerminalButtonProps): JSX.Element {
  const label = trans.__('Open a terminal in this container');
  return (
    <button className="jp-dlenv-Button" aria-label={label} title={label} onClick={onClick}>
      <terminalIcon.react tag="span" className="jp-dlenv-Icon" />
    </button>
  );
}
