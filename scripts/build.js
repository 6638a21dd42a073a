/**
 * lib/ to dist/: tsup, then module-exports.js. Does nothing when dist/ is what came of these very sources, because every
 * script that runs dist/ builds first, and the types take ten seconds.
 */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'tsup'

const root = fileURLToPath(new URL('..', import.meta.url))
const record = path.join(root, 'node_modules', '.cache', 'build')
process.chdir(root)

if (existsSync(record) && readFileSync(record, 'utf8') === state()) {
  console.log('dist/ is up to date')
} else {
  await build({})
  await import('./module-exports.js')
  mkdirSync(path.dirname(record), { recursive: true })
  writeFileSync(record, state())
}

/** A hash of all that goes into the build, and of all that is in dist/: also a change there is built over. */
function state () {
  const hash = createHash('sha256')
  for (const name of ['lib', 'types', 'scripts', 'dist', 'package.json', 'package-lock.json', 'tsconfig.json', 'tsup.config.ts']) add(name)
  return hash.digest('hex')

  function add (name) {
    if (!existsSync(name)) return
    const names = path.extname(name) === '' ? readdirSync(name).sort() : undefined
    hash.update(`${name}\n`)
    if (names === undefined) hash.update(readFileSync(name))
    else for (const inside of names) add(path.join(name, inside))
  }
}
