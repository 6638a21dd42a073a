/**
 * Plants one bug after the other in a copy of the sources, and runs the model test of channels on it: each has to be
 * caught within 100 seeds. Exits with 1 when one is not, or when the copy without a bug fails. `npm run test:planted`
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const seeds = 100

const bugs = [
  {
    name: 'a skipped event: whoever catches up begins one too late',
    file: 'lib/channel/feed.ts',
    from: 'if (window.at(number).stored.id === id) return number + 1',
    to: 'if (window.at(number).stored.id === id) return Math.min(window.end, number + 2)'
  },
  {
    name: 'a doubled event: whoever catches up begins one too early',
    file: 'lib/channel/feed.ts',
    from: 'if (window.at(number).stored.id === id) return number + 1',
    to: 'if (window.at(number).stored.id === id) return number'
  },
  {
    name: 'swapped events: two that leave together change places',
    file: 'lib/channel/frame.ts',
    from: '  return new Batch(frames)',
    to: '  if (frames.length === 2) frames.push(frames.shift() as Frame)\n  return new Batch(frames)'
  },
  {
    name: 'a lost gap: a returning client is not told',
    file: 'lib/channel/cursor.ts',
    from: 'else if (!page.contiguous) gap =',
    to: 'else if (!page.contiguous && page.frames.length < 0) gap ='
  },
  {
    name: 'a stale id: a filtered event leaves the position where it was',
    file: 'lib/channel/live.ts',
    from: '        part.position = frame.id\n',
    to: ''
  }
]

const copy = mkdtempSync(path.join(tmpdir(), 'fastify-streaming-planted-'))
try {
  for (const name of ['lib', 'test', 'types', 'package.json', 'tsconfig.json', '.taprc']) cpSync(path.join(root, name), path.join(copy, name), { recursive: true })
  symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'), 'junction')
  const clean = runModel()
  console.log(`no bug: ${clean === undefined ? 'passes' : `FAILS: ${clean}`}`)
  if (clean !== undefined) process.exitCode = 1
  for (const { name, file, from, to } of bugs) {
    const target = path.join(copy, file)
    const source = readFileSync(target, 'utf8')
    if (source.split(from).length !== 2) throw new Error(`${file} does not have ${JSON.stringify(from)} once`)
    writeFileSync(target, source.replace(from, () => to))
    const failure = runModel()
    console.log(`${name}: ${failure === undefined ? 'NOT CAUGHT' : `caught: ${failure}`}`)
    if (failure === undefined) process.exitCode = 1
    writeFileSync(target, source)
  }
} finally {
  rmSync(copy, { recursive: true, force: true })
}

/** The first failure that the model reports, or undefined when all seeds pass. */
function runModel () {
  const tap = path.join(root, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [tap, '--disable-coverage', '--allow-empty-coverage', 'test/channel/model.test.ts'], {
    cwd: copy, encoding: 'utf8', env: { ...process.env, MODEL_SEEDS: String(seeds), MODEL_FIRST_SEED: '1', MODEL_PATIENCE: '2000' }
  })
  if (status === 0) return undefined
  return /"(seed .*)"/.exec(stdout)?.[1].slice(0, 200) ?? (stdout + stderr).trim().slice(0, 300)
}
