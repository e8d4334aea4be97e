// JupyterLab and what it is made of are published as ES modules, which jest does not load untransformed.
const esModules = [
  '@jupyter/',
  '@jupyterlab/',
  '@microsoft/',
  '@rjsf/',
  'exenv-es6',
  'lib0',
  'nanoid',
  'y-protocols',
  'yjs'
];

module.exports = {
  moduleNameMapper: {
    '\\.css$': '<rootDir>/src/__tests__/empty.js',
    '\\.svg$': '<rootDir>/src/__tests__/svg.js'
  },
  setupFiles: ['<rootDir>/src/__tests__/browser.js'],
  testEnvironment: 'node',
  testRegex: 'src/__tests__/.*\\.spec\\.tsx?$',
  transformIgnorePatterns: [`/node_modules/(?!(${esModules.join('|')}))`]
};
