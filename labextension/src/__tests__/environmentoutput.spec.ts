/**
 * @jest-environment jsdom
 */
import { MimeModel } from '@jupyterlab/rendermime';
import { nullTranslator } from '@jupyterlab/translation';

import { environmentIn, EnvironmentOutput } from '../environmentoutput';
import { SWITCH_MIME_TYPE } from '../tokens';

describe('EnvironmentOutput', () => {
  it('offers the switch', async () => {
    const switched: string[] = [];
    const trans = nullTranslator.load('jupyter_dlenv');
    const output = new EnvironmentOutput({ trans, onSwitch: name => switched.push(name) });
    await output.renderModel(new MimeModel({ data: { [SWITCH_MIME_TYPE]: { name: 'torch' } } }));
    const button = output.node.querySelector('button');
    button?.click();
    expect(button?.textContent).toBe('Use torch in this notebook');
    expect(switched).toEqual(['torch']);
    output.dispose();
  });

  it.each([null, 'torch', {}, { name: 1 }, { name: '' }])('has nothing to offer for %j', data => {
    expect(environmentIn(data)).toBeNull();
  });
});
