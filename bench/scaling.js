/**
 * `npm run bench:scaling`: what a delivery and a subscriber cost at 100 to 50,000 subscribers of one event, with raw
 * node:http and with this package. `--quick` does less of it. The result goes into bench/results.json.
 *
 * An event is published when everybody has the one before. Each figure is the median of rounds, in each of which both
 * have a new server in turn. A subscriber takes a file in the server and one in the client: where a process may not
 * have 50,000, the largest size is what it may have.
 */
import { execFileSync } from 'node:child_process'
import { median, short } from './load/measure.js'
import { Client, compile, Server } from './load/processes.js'
import { machine, saveResults } from './load/results.js'
import { close, delivered, open, quiet } from './load/workloads.js'

const isQuick = process.argv.includes('--quick')
const rounds = isQuick ? 1 : 3
const deliveries = isQuick ? 60_000 : 200_000
const libraries = ['raw', 'fastify-streaming']
const programs = compile()

const limit = execFileSync('sh', ['-c', 'ulimit -Hn'], { encoding: 'utf8' }).trim()
const fileLimit = limit === 'unlimited' ? undefined : Number(limit)
// Some files are not sockets.
const largest = Math.min(50_000, (fileLimit ?? Infinity) - 500)
const sizes = [100, 1000, 10_000, largest].filter((size, i, all) => size > (all[i - 1] ?? 0) && size <= largest)
if (largest < 50_000) console.log(`A process may have ${fileLimit} files: the largest size is ${largest}`)

const figures = Object.fromEntries(libraries.map(library => [library, { cpu: [], rss: [], heap: [] }]))
for (const size of sizes) {
  const outcomes = Object.fromEntries(libraries.map(library => [library, []]))
  for (let round = 0; round < rounds; round++) {
    for (const library of libraries) outcomes[library].push(await measure(library, size))
  }
  for (const [library, own] of Object.entries(outcomes)) {
    for (const key of ['cpu', 'rss', 'heap']) figures[library][key].push(Number(median(own.map(outcome => outcome[key])).toPrecision(4)))
    const [cpu, rss, heap] = ['cpu', 'rss', 'heap'].map(key => figures[library][key].at(-1))
    console.log(`${String(size).padStart(6)} ${library.padEnd(18)} ${short(cpu)} µs a delivery, ${short(rss)} KiB RSS and ${short(heap)} KiB heap a subscriber`)
  }
}
await saveResults({ scaling: { machine: machine(), fileLimit, sizes, figures } })
process.exit()

/** Resolves with the server's CPU in µs a delivery, and its RSS and heap in KiB a subscriber. */
async function measure (library, size) {
  const server = await Server.start(library, ['heartbeat=600000'])
  const client = new Client(programs.client)
  server.pin()
  client.pin()
  // What the first connections load and compile is no cost of a subscriber, and what they leave behind when they close
  // is taken by the next: these stay until the memory is measured.
  const first = new Client(programs.client)
  await open(server, first, 100)
  const { answer: before } = await server.tell('measure')
  await open(server, client, size, 100)
  await quiet(client)
  const { answer: after } = await server.tell('measure')
  await close(server, first, size)
  await first.stop()
  await client.tell(`acknowledge ${server.acknowledgePort}`, { answers: false })
  const publish = async rounds => await delivered(server, client, `want ${rounds}`, ['rounds', { rounds }])
  await publish(Math.max(2, Math.ceil(deliveries / 5 / size)))
  const events = Math.max(5, Math.ceil(deliveries / size))
  const [, cpu] = await publish(events)
  await Promise.all([server.stop(), client.stop()])
  return {
    cpu: cpu / (events * size),
    rss: (after.rss - before.rss) / size / 1024,
    heap: (after.heapUsed - before.heapUsed) / size / 1024
  }
}
