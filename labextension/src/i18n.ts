import type { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { Gettext, nullTranslator } from '@jupyterlab/translation';

import chinese from '../../jupyter_dlenv/locale/zh_CN/LC_MESSAGES/jupyter_dlenv.json';

const DOMAIN = 'jupyter_dlenv';

/**
 * Return the strings of this extension in the user's language.
 *
 * JupyterLab serves an extension's own catalogue only where a language pack is installed beside it, so Chinese comes
 * along here as well.
 */
export function loadBundle(translator: ITranslator | null): TranslationBundle {
  const source = translator ?? nullTranslator;
  const trans = source.load(DOMAIN);
  const language = source.languageCode || 'en';
  const served = trans.__('Jobs') !== 'Jobs';
  return served || !language.startsWith('zh') ? trans : chineseBundle(language);
}

function chineseBundle(language: string): TranslationBundle {
  const { '': head, ...messages } = chinese;
  const bundle = new Gettext({ domain: DOMAIN, locale: language });
  const header = { ...head, language, pluralForms: head.plural_forms };
  bundle.loadJSON({ '': header, ...messages } as never, DOMAIN);
  return bundle;
}
