/** The catalogue lives in the Python package, outside of this one, where the bundler finds it. */
declare module '*/jupyter_dlenv.json' {
  const catalogue: {
    readonly '': { readonly language: string; readonly plural_forms: string };
    readonly [message: string]: unknown;
  };
  export default catalogue;
}
