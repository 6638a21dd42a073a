/**
 * Plants one bug after the other in a copy of the sources, and runs the model test of channels on it, where it has to be
 * caught within 100 seeds, or the chaos test of Redis, where it has to be caught in a run or two. Exits with 1 when one is
 * not, or when the copy without a bug fails. `npm run test:planted`
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

/** `row` is what happens to Redis meanwhile. */
const redisBugs = [
  {
    name: 'a call that is sent again appends again',
    row: 'all connections are killed',
    file: 'lib/brokers/redis/scripts.ts',
    from: 'if number == ARGV[1] then return ids end',
    to: ''
  },
  {
    name: 'calls overtake each other when the script is gone',
    row: 'SCRIPT FLUSH',
    file: 'lib/brokers/redis/lane.ts',
    from: 'await this.#send(this.#take())',
    to: 'void this.#send(this.#take())'
  },
  {
    name: 'any position is one of this log',
    row: 'has kept nothing',
    file: 'lib/brokers/redis/scripts.ts',
    from: "if page[2] ~= ARGV[4] then page[1] = '0' end",
    to: ''
  },
  {
    name: 'an entry names an older one than the one before it',
    row: 'only the hash keys',
    file: 'lib/brokers/redis/scripts.ts',
    from: '      head = nameOf(entry)\n',
    to: '      head = head or nameOf(entry)\n'
  },
  {
    name: 'publishes fail when the connection is lost, and are not tried again',
    row: 'SCRIPT FLUSH',
    file: 'lib/brokers/redis/calls.ts',
    from: "if (!String((error as Error).message).startsWith('NOSCRIPT')) throw error",
    to: 'throw error'
  },
  {
    name: 'a publish waits for Redis for ever',
    row: 'stands still',
    file: 'lib/brokers/redis/lane.ts',
    from: '}, Math.max(1, since + this.#timeout - performance.now()))',
    to: '}, 10 * this.#timeout)'
  }
]

const copy = mkdtempSync(path.join(tmpdir(), 'fastify-streaming-planted-'))
try {
  for (const name of ['lib', 'test', 'types', 'package.json', 'tsconfig.json', '.taprc']) cpSync(path.join(root, name), path.join(copy, name), { recursive: true })
  symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'), 'junction')
  for (const [what, clean] of [['the model', runModel()], ['chaos', runChaos('')]]) {
    console.log(`no bug, ${what}: ${clean === undefined ? 'passes' : `FAILS: ${clean}`}`)
    if (clean !== undefined) process.exitCode = 1
  }
  for (const { name, file, from, to, row } of [...bugs, ...redisBugs]) {
    const target = path.join(copy, file)
    const source = readFileSync(target, 'utf8')
    if (source.split(from).length !== 2) throw new Error(`${file} does not have ${JSON.stringify(from)} once`)
    writeFileSync(target, source.replace(from, () => to))
    const failure = row === undefined ? runModel() : runChaos(row)
    console.log(`${name}: ${failure === undefined ? 'NOT CAUGHT' : `caught: ${failure}`}`)
    if (failure === undefined) process.exitCode = 1
    writeFileSync(target, source)
  }
} finally {
  rmSync(copy, { recursive: true, force: true })
}

/** The first failure that the model reports, or undefined when all seeds pass. */
function runModel () {
  return run('test/channel/model.test.ts', /"(seed .*)"/, { MODEL_SEEDS: String(seeds), MODEL_FIRST_SEED: '1', MODEL_PATIENCE: '2000' })
}

/** The first promise that is broken while this happens to Redis, or undefined. */
function runChaos (row) {
  return run('test/brokers/chaos.test.ts', /BROKEN: (.*)|not run: (.*)/, { CHAOS_ROW: row, CHAOS_SEED: '1', CI: 'true', ...row !== '' && { CHAOS_RUNS: '1' } })
}

function run (test, failure, env) {
  const tap = path.join(root, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [tap, '--disable-coverage', '--allow-empty-coverage', '--timeout=300', test], {
    cwd: copy, encoding: 'utf8', env: { ...process.env, ...env }
  })
  if (status === 0) return undefined
  const output = stdout + stderr
  const [, one, other] = failure.exec(output) ?? []
  return (one ?? other ?? output.trim()).slice(0, 300)
}
