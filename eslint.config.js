import globals from 'globals'
import neostandard, { resolveIgnoresFromGitignore } from 'neostandard'

export default [
  ...neostandard({
    ts: true,
    ignores: ['dist', '.tap', 'coverage', ...resolveIgnoresFromGitignore()]
  }),
  // `void promise` says that nobody waits for it.
  { rules: { 'no-void': ['error', { allowAsStatement: true }] } },
  // What the demos serve to browsers.
  { files: ['examples/**/public/**'], languageOptions: { globals: globals.browser } }
]
