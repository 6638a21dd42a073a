/**
 * What takes too long for `npm test`: the model of channels with thousands of seeds, from a first one that it prints, and
 * the soak runs of bench/. `npm run soak`, or `npm run soak -- 1 20000` for other seeds (the first, and how many).
 */
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const [first = String(Math.floor(Date.now() / 1000) % 1_000_000_000), count = '5000'] = process.argv.slice(2)
const tap = path.join('node_modules', 'tap', 'dist', 'esm', 'run.mjs')
const runs = [
  [tap, '--disable-coverage', '--allow-empty-coverage', '--timeout=3600', path.join('test', 'channel', 'model.test.ts')],
  [path.join('bench', 'soak-channels.js')],
  [path.join('bench', 'soak-stalled.js')],
  ['--expose-gc', path.join('bench', 'soak-connects.js')]
]

console.log(`Seeds ${first} to ${Number(first) + Number(count) - 1}`)
for (const args of runs) {
  console.log(args.at(-1))
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, MODEL_FIRST_SEED: first, MODEL_SEEDS: count } })
  if (status !== 0) process.exitCode = 1
}
