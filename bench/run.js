/**
 * `npm run bench`: event streams of this package beside raw node:http, Fastify without a plugin, and other libraries,
 * at the same work. `--quick` does less of it; `--only=TEXT` runs the workloads whose names have it;
 * `--ours` runs raw and this package alone; `--save` writes bench/results.json; `--check` fails when
 * a ratio of this package is more than 15 % worse than there.
 *
 * Servers are processes on one core, the load client (C, one epoll) is one on another. In each round every library
 * does the work once, in turn; a figure is the median of its rounds as a ratio to the median of raw. The client counts
 * the events of every connection: a workload ends when each has got all of them, and fails when it does not.
 */
import { readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { Client, compile, isPinned, PlainServer, Server } from './load/processes.js'
import { workloads } from './load/workloads.js'

const flags = process.argv.slice(2)
const isQuick = flags.includes('--quick')
const only = flags.find(flag => flag.startsWith('--only='))?.slice(7) ?? ''
const libraries = flags.includes('--ours')
  ? ['raw', 'fastify-streaming']
  : ['raw', 'fastify + reply.raw', 'reply.send(Readable)', 'fastify-streaming', '@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3', 'C']
const programs = compile()

const results = []
for (const workload of workloads) {
  if (!workload.name.includes(only)) continue
  results.push(...await run(workload))
}
const rows = [
  `| workload | ${libraries.join(' | ')} |`,
  `|---|${libraries.map(() => '---').join('|')}|`,
  ...results.map(({ name, ratios }) => `| ${name} | ${libraries.map(library => ratios[library]?.toFixed(2) ?? '–').join(' | ')} |`)
]
console.log(`\n${rows.join('\n')}`)
if (flags.includes('--check')) await check()
if (flags.includes('--save')) {
  const machine = { cpu: os.cpus()[0]?.model, cores: os.availableParallelism(), pinned: isPinned, node: process.version, system: `${os.type()} ${os.release()}`, date: new Date().toISOString().slice(0, 10) }
  await writeFile(new URL('results.json', import.meta.url), `${JSON.stringify({ machine, libraries, results }, undefined, 1)}\n`)
}
process.exit()

/** Compares with the results that were saved. */
async function check () {
  const saved = JSON.parse(await readFile(new URL('results.json', import.meta.url), 'utf8'))
  for (const { name, ratios, isLess } of results) {
    const before = saved.results.find(result => result.name === name)?.ratios['fastify-streaming']
    if (before === undefined) continue
    const change = ratios['fastify-streaming'] / before
    const isWorse = isLess ? change > 1.15 : change < 0.85
    console.log(`${isWorse ? 'WORSE' : 'ok   '} ${name}: ${before.toFixed(2)} → ${ratios['fastify-streaming'].toFixed(2)}`)
    if (isWorse) process.exitCode = 1
  }
}

/** Runs a workload with every library that can do it, in turn. */
async function run ({ name, reach, unit, without = [], flags = [], rounds = 5, quickRounds = 3, isLess = false, isFresh = false, also = {}, work }) {
  const figures = {}
  const extras = {}
  const servers = new Map()
  const start = async library => library === 'C' ? await PlainServer.start(programs.server) : await Server.start(library, flags)
  for (const library of libraries) {
    if (!without.includes(library)) servers.set(library, isFresh ? undefined : await start(library))
  }
  // The first round is for the compiler, unless each starts anew.
  for (let round = isFresh ? 1 : 0; round <= (isQuick ? quickRounds : rounds); round++) {
    for (const [library, kept] of servers) {
      const client = new Client(programs.client)
      const server = kept ?? await start(library)
      try {
        const { figure, ...extra } = await work({ server, client, isQuick, library })
        if (round > 0) {
          (figures[library] ??= []).push(figure)
          ;(extras[library] ??= []).push(extra)
        }
      } catch (error) {
        console.log(`${name}: ${library} drops out: ${error.message}`)
        await server.stop()
        servers.delete(library)
      } finally {
        await client.stop()
        if (isFresh) await server.stop()
      }
    }
  }
  for (const server of servers.values()) await server?.stop()
  const ratios = {}
  console.log(`\n${name}, ${unit} (reach: ${reach})`)
  for (const [library, own] of Object.entries(figures)) {
    ratios[library] = median(own) / median(figures.raw)
    const extra = Object.entries(extras[library][0]).map(([key]) => `${key} ${short(median(extras[library].map(extra => extra[key])))}`)
    console.log(`  ${library.padEnd(24)} ${ratios[library].toFixed(2)}  ${short(median(own))} (${short(Math.min(...own))} to ${short(Math.max(...own))})  ${extra.join(', ')}`)
  }
  const rest = Object.entries(also).map(([key, reach]) => {
    const figuresOf = Object.fromEntries(Object.entries(extras).map(([library, own]) => [library, own.map(extra => extra[key])]))
    const ratiosOf = Object.fromEntries(Object.entries(figuresOf).map(([library, own]) => [library, median(own) / median(figuresOf.raw)]))
    return { name: `${name.split(':')[0]}: ${key}`, reach, isLess, ratios: ratiosOf, figures: figuresOf }
  })
  return [{ name, reach, unit, isLess, ratios, figures }, ...rest]
}

function median (values) {
  return [...values].sort((a, b) => a - b)[values.length >> 1]
}

function short (value) {
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(3)
}
