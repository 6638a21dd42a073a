/**
 * `npm run bench`: event streams of this package beside raw node:http, Fastify without a plugin, and other libraries,
 * at the same work. `--quick` does less of it; `--only=TEXT` runs the workloads whose names have it;
 * `--ours` runs raw and this package alone; `--save` writes bench/results.json; `--check` fails when a ratio of this
 * package is more than 15 % worse than there, twice: what looks worse is measured again, and the better one counts.
 *
 * Servers are processes on one core, the load client (C, one epoll) is one on another. In each round every library
 * does the work once, in turn; a figure is the median of its rounds as a ratio to the median of raw. The client counts
 * the events of every connection: a workload ends when each has got all of them, and fails when it does not.
 */
import { better, check, isWorse } from './load/check.js'
import { measure, print, short } from './load/measure.js'
import { compile } from './load/processes.js'
import { machine, readResults, saveResults } from './load/results.js'
import { workloads } from './load/workloads.js'

const flags = process.argv.slice(2)
const isQuick = flags.includes('--quick')
const isCheck = flags.includes('--check')
const isSave = flags.includes('--save')
const only = flags.find(flag => flag.startsWith('--only='))?.slice(7) ?? ''
const ours = ['raw', 'fastify-streaming']
const libraries = flags.includes('--ours')
  ? ours
  : ['raw', 'fastify + reply.raw', 'reply.send(Readable)', 'fastify-streaming', '@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3', 'C']
if (isSave && (only !== '' || libraries === ours)) throw new Error('--save is for all workloads with all libraries')

const programs = compile()
const { results: saved = [] } = await readResults()
const selected = workloads.filter(({ name }) => name.includes(only))
const results = []
for (const workload of selected) {
  const started = performance.now()
  let rows = await measure(workload, { libraries, programs, isQuick })
  rows.forEach(print)
  if (isCheck && rows.some(row => isWorse(row, saved))) {
    console.log('\nThat looks worse than it was: once more, and the better one of both counts.')
    const again = await measure(workload, { libraries: ours, programs, isQuick })
    again.forEach(print)
    rows = better(rows, again)
  }
  results.push(...rows)
  console.log(`  (${short((performance.now() - started) / 1000)} s)`)
}

const table = [
  `| workload | ${libraries.join(' | ')} |`,
  `|---|${libraries.map(() => '---').join('|')}|`,
  ...results.map(({ name, ratios }) => `| ${name} | ${libraries.map(library => ratios[library]?.toFixed(2) ?? '–').join(' | ')} |`)
]
console.log(`\n${table.join('\n')}`)
if (isSave) await saveResults({ machine: machine(), isQuick, libraries, results })
if (isCheck) {
  console.log('\nBefore → now, as ratios to raw')
  const failed = check(results, { saved, workloads: selected, isAll: only === '' })
  if (failed > 0) console.log(`${failed} failed`)
  process.exitCode = failed > 0 ? 1 : 0
}
process.exit()
