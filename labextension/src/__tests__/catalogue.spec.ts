/**
 * @jest-environment jsdom
 */
import { nullTranslator } from '@jupyterlab/translation';
import { readdirSync, readFileSync } from 'fs';
import { join } from 'path';
import * as ts from 'typescript';

import catalogue from '../../../jupyter_dlenv/locale/zh_CN/LC_MESSAGES/jupyter_dlenv.json';
import { loadBundle } from '../i18n';

const SOURCE = join(__dirname, '..');
const METHODS: Readonly<Record<string, number>> = { __: 0, _n: 0, _p: 1 };

/** Return the message of a call of `trans`, null for any other node. */
function messageOf(node: ts.Node): string | null {
  if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) {
    return null;
  }
  const argument = node.arguments[METHODS[node.expression.name.text] ?? -1];
  return argument && ts.isStringLiteralLike(argument) ? argument.text : null;
}

function messagesIn(path: string): string[] {
  const kind = path.endsWith('x') ? ts.ScriptKind.TSX : ts.ScriptKind.TS;
  const file = ts.createSourceFile(
    path,
    readFileSync(path, 'utf-8'),
    ts.ScriptTarget.ES2022,
    true,
    kind
  );
  const found: string[] = [];
  const visit = (node: ts.Node) => {
    const message = messageOf(node);
    found.push(...(message === null ? [] : [message]));
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

function placeholders(text: string): string[] {
  return [...new Set(text.match(/%\d/g))].sort();
}

const files = readdirSync(SOURCE).filter(name => /\.tsx?$/.test(name) && !name.endsWith('.d.ts'));
const messages = [...new Set(files.flatMap(name => messagesIn(join(SOURCE, name))))];

describe('the Chinese catalogue', () => {
  it('is found by JupyterLab', () => {
    expect(catalogue['']).toMatchObject({ domain: 'jupyter_dlenv', language: 'zh-CN' });
  });

  it('is about strings that were found', () => {
    expect(messages.length).toBeGreaterThan(40);
  });

  it.each(messages)('translates %j', message => {
    const [translation] = catalogue[message] as string[];
    expect(translation).not.toBe('');
    expect(placeholders(translation)).toEqual(placeholders(message));
  });
});

describe('loadBundle', () => {
  const chinese = { languageCode: 'zh-CN', load: () => nullTranslator.load('') };

  it('brings Chinese along where JupyterLab serves none', () => {
    expect(loadBundle(chinese).__('Stop %1', 'train')).toBe('停止 train');
  });

  it('leaves a served catalogue alone', () => {
    const served = { ...nullTranslator.load(''), __: (text: string) => `served ${text}` };
    expect(loadBundle({ ...chinese, load: () => served }).__('Jobs')).toBe('served Jobs');
  });

  it.each([undefined, 'en', 'fr-FR'])('stays English for %j', languageCode => {
    const translator = {
      languageCode: languageCode as string,
      load: () => nullTranslator.load('')
    };
    expect(loadBundle(translator).__('Jobs')).toBe('Jobs');
  });

  it('does without a translator', () => {
    expect(loadBundle(null).__('exit code %1', 3)).toBe('exit code 3');
  });
});
