/**
 * `npm run bench:redis`: channels over Redis beside the least that keeps and tells events there, a script of XADD with
 * MAXLEN and PUBLISH through the same client; storms beside plain node:http that writes the same text. `--quick` does
 * less of it; `--only=TEXT` runs the workloads with rows whose names have it; `--client=redis|iovalkey` takes another
 * client than ioredis; `--save` writes bench/redis-results.json, which bench:report puts into the README.
 *
 * Redis is a private one on a unix socket. It is on one core with the load client, servers and subscribers are on the
 * other. In each round both do the work once, in turn, each on an empty Redis in new processes; a figure is the median
 * of the rounds, with the lowest and the highest. Other work of the machine shows: what is to be believed is the ratio.
 */
import { writeFile } from 'node:fs/promises'
import process from 'node:process'
import { median, rounded, short } from './load/measure.js'
import { compile } from './load/processes.js'
import { asText, machine } from './load/results.js'
import { clients, versionOf } from './redis/clients.js'
import { RedisServer } from './redis/server.js'
import { workloads } from './redis/workloads.js'

const flags = process.argv.slice(2)
const isQuick = flags.includes('--quick')
const isSave = flags.includes('--save')
const only = flags.find(flag => flag.startsWith('--only='))?.slice(7) ?? ''
const client = flags.find(flag => flag.startsWith('--client='))?.slice(9) ?? 'ioredis'
if (!clients.includes(client)) throw new Error(`--client is one of ${clients.join(', ')}`)
if (isSave && only !== '') throw new Error('--save is for all workloads')
const rounds = isQuick ? 1 : 5

// What was started is stopped when this process exits, which a signal alone does not make it do.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))
const programs = compile()
const redis = await RedisServer.start()
const results = []
for (const { rows, measure } of workloads.filter(({ rows }) => rows.some(({ name }) => name.includes(only)))) {
  const outcomes = { ours: [], bare: [] }
  try {
    for (let round = 0; round < rounds; round++) {
      for (const kind of ['ours', 'bare']) outcomes[kind].push(await measure({ kind, client, redis, programs, isQuick }))
    }
  } catch (error) {
    console.log(`\n${rows[0].name}: failed: ${error.message}`)
    process.exitCode = 1
    continue
  }
  for (const { key, ...row } of rows) {
    const figures = Object.entries(outcomes).map(([kind, own]) => [kind, own.map(outcome => outcome[key])])
    const medians = Object.fromEntries(figures.map(([kind, own]) => [kind, rounded(median(own))]))
    const spread = Object.fromEntries(figures.map(([kind, own]) => [kind, [rounded(Math.min(...own)), rounded(Math.max(...own))]]))
    results.push({ ...row, medians, spread })
    print(results.at(-1))
  }
}
if (isSave && process.exitCode === undefined) {
  const versions = { redis: redis.version, [client]: versionOf(client) }
  await writeFile(new URL('redis-results.json', import.meta.url), asText({ machine: { ...machine(), ...versions }, client, isQuick, rounds, results }))
}
await redis.stop()
process.exit()

function print ({ name, unit, goal, medians: { ours, bare }, spread }) {
  const figure = kind => `${short({ ours, bare }[kind])} (${spread[kind].map(short).join(' to ')})`
  const reached = goal === undefined ? '' : `, goal ${goal}: ${ours < goal ? 'reached' : 'missed'}`
  console.log(`\n${name}${unit === '' ? '' : `, ${unit}`}${reached}`)
  console.log(`  fastify-streaming ${figure('ours')}   bare ${figure('bare')}   ratio ${bare === 0 ? '–' : (ours / bare).toFixed(2)}`)
}
