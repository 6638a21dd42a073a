/**
 * Everything that may happen to Redis, with every client, three times: minutes. Prints a line for each, with its seed.
 * `npm run chaos`, or `npm run chaos -- 7 FLUSHALL 10` for a seed, a row, and another number of times.
 */
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const [seed = String(Math.floor(Date.now() / 1000)), row = '', runs = '3'] = process.argv.slice(2)
const tap = path.join('node_modules', 'tap', 'dist', 'esm', 'run.mjs')
const args = [tap, '--disable-coverage', '--allow-empty-coverage', '--timeout=3600', path.join('test', 'brokers', 'chaos.test.ts')]
const { status } = spawnSync(process.execPath, args, {
  cwd: fileURLToPath(new URL('..', import.meta.url)),
  stdio: 'inherit',
  env: { ...process.env, CHAOS_SEED: seed, CHAOS_ROW: row, CHAOS_RUNS: runs }
})
process.exitCode = status ?? 1
