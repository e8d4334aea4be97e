import { nullTranslator } from '@jupyterlab/translation';

import { describeError, elapsedText, outcomeText, stateText, waitText } from '../messages';
import { ApiError } from '../request';
import type { IJob, JobState } from '../tokens';
import { job } from './apiserver';

const trans = nullTranslator.load('jupyter_dlenv');

describe('outcomeText', () => {
  it.each<[Partial<IJob>, string]>([
    [{ state: 'RUNNING', message: 'Runs.' }, ''],
    [{ state: 'SUCCEEDED', exit_code: 0, message: 'Done.' }, ''],
    [
      { state: 'FAILED', exit_code: 1, message: 'Ended with exit code 1.' },
      'Ended with exit code 1.'
    ],
    [
      { state: 'FAILED', exit_code: 137, message: 'Out of memory.' },
      'exit code 137 · Out of memory.'
    ],
    [{ state: 'FAILED', exit_code: 3, message: '' }, 'exit code 3'],
    [{ state: 'LOST', exit_code: null, message: 'Nobody saw its end.' }, 'Nobody saw its end.']
  ])('tells of %j %j', (changes, text) => {
    expect(outcomeText(job(changes), trans)).toBe(text);
  });
});

describe('waitText', () => {
  it.each<[Partial<IJob>, string]>([
    [{ state: 'PENDING', message: 'Waits for 2 GPUs.' }, 'Waits for 2 GPUs.'],
    [{ state: 'RUNNING', message: 'The GPU fails.' }, '']
  ])('of %j is %j', (changes, text) => {
    expect(waitText(job(changes))).toBe(text);
  });
});

describe('elapsedText', () => {
  it.each<[Partial<IJob>, string]>([
    [{ started_at: null }, ''],
    [{ started_at: 100 }, '0:01:40'],
    [{ started_at: 100, finished_at: 90_100.9 }, '25:00:00'],
    [{ started_at: 300 }, '0:00:00']
  ])('of %j is %j', (changes, text) => {
    expect(elapsedText(job(changes), 200)).toBe(text);
  });
});

describe('stateText', () => {
  it('leaves a state of a newer server as it is', () => {
    expect(stateText('RESUMING' as JobState, trans)).toBe('RESUMING');
  });
});

describe('describeError', () => {
  it.each([
    [
      new ApiError(403, 'Denied', 'A rule forbids it.', 'Ask.'),
      { message: 'A rule forbids it.', hint: 'Ask.' }
    ],
    [
      new ApiError(0, 'Unreachable', 'x'),
      { message: 'The Jupyter server does not answer.', hint: '' }
    ],
    [new Error('boom'), { message: 'boom', hint: '' }],
    ['text', { message: 'text', hint: '' }]
  ])('tells of %s', (error, problem) => {
    expect(describeError(error, trans)).toEqual(problem);
  });
});
