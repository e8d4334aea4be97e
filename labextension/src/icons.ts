import type { LabIcon } from '@jupyterlab/ui-components';
import {
  checkIcon,
  circleEmptyIcon,
  clearIcon,
  downloadIcon,
  errorIcon,
  infoIcon,
  LabIcon as Icon,
  runIcon,
  stopIcon
} from '@jupyterlab/ui-components';

import type { JobState, KernelState } from './tokens';

/** Stacked layers: the sidebar and the log tabs. */
export const dlenvIcon = new Icon({
  name: 'jupyter-dlenv:layers',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3 jp-icon-selectable" fill="#616161">
    <path d="M12 2 2 7.5 12 13l10-5.5z"/>
    <path d="m4.2 10.8L2 12l10 5.5L22 12l-2.2-1.2-7.8 4.3z"/>
    <path d="m4.2 15.3L2 16.5 12 22l10-5.5-2.2-1.2-7.8 4.3z"/>
  </g>
</svg>`
});

const STATE_ICONS: Readonly<Record<JobState | KernelState, LabIcon>> = {
  PENDING: circleEmptyIcon,
  QUEUED: circleEmptyIcon,
  PULLING: downloadIcon,
  CREATING: circleEmptyIcon,
  STARTING: circleEmptyIcon,
  RUNNING: runIcon,
  SUCCEEDED: checkIcon,
  FAILED: errorIcon,
  CANCELLED: stopIcon,
  LOST: clearIcon
};

/** Return the icon of a state; one that a newer server made up has one too. */
export function stateIcon(state: JobState | KernelState): LabIcon {
  return STATE_ICONS[state] ?? infoIcon;
}
