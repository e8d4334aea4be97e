import { environmentOutput, jobOutput, main } from './plugins';

export default [main, jobOutput, environmentOutput];
