/**
 * What is measured of channels over Redis. A workload gives figures by the keys of its rows; it rejects when an event
 * is missing.
 */
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { limited, median } from '../load/measure.js'
import { Client, Server } from '../load/processes.js'

const program = name => fileURLToPath(new URL(name, import.meta.url))
const history = 256

export const workloads = [
  ...[1, 1000, 10_000].map(latency),
  rate('one at a time, awaited', 'awaited', { count: 5000, quickCount: 1500 }),
  rate('1000 at a time, one channel', 'bursts', { channels: 1, size: 1000, count: 30_000, quickCount: 5000 }),
  rate('1000 at a time, 100 channels', 'bursts', { channels: 100, size: 1000, count: 20_000, quickCount: 5000 }),
  catchUp(10_000),
  storm({ clients: 5000, events: 500 })
]

/** From the call of publish in one process until the subscriber of another has it. */
function latency (channels) {
  const name = `publish to delivery, ${channels.toLocaleString('en-US')} channel${channels === 1 ? '' : 's with a subscriber each'}`
  return {
    rows: [
      { key: 'p50', name: `${name}: p50`, unit: 'ms', isLess: true, goal: 1 },
      { key: 'p99', name: `${name}: p99`, unit: 'ms', isLess: true }
    ],
    async measure (context) {
      const count = context.isQuick ? 300 : 1500
      const warmUp = 200
      return await withNodes(context, 2, async ([publisher, subscriber]) => {
        publisher.pin(1)
        await subscriber.tell('subscribe', { channels })
        const run = async count => {
          await publisher.tell('paced', { channels, count, pause: 2 })
          return (await subscriber.tell('latencies', { count })).answer
        }
        await run(warmUp)
        const latencies = (await run(count)).sort((a, b) => a - b)
        return { p50: median(latencies), p99: latencies[Math.floor(count * 0.99)] }
      })
    }
  }
}

function rate (how, command, { count, quickCount, ...options }) {
  return {
    rows: [
      { key: 'rate', name: `publishes, ${how}`, unit: 'events/s' },
      { key: 'cpu', name: `publishes, ${how}: CPU of Redis each`, unit: 'µs', isLess: true }
    ],
    async measure (context) {
      const { redis, isQuick } = context
      return await withNodes(context, 1, async ([publisher]) => {
        // Until the history is full, and what is run is compiled.
        await publisher.tell('bursts', { ...options, channels: options.channels ?? 1, count: history * (options.channels ?? 1), size: history })
        await publisher.tell(command, { ...options, count: 1000 })
        const total = isQuick ? quickCount : count
        const before = await redis.cpu()
        const { answer: time } = await publisher.tell(command, { ...options, count: total })
        return { rate: total / time * 1000, cpu: (await redis.cpu() - before) / total }
      })
    }
  }
}

function catchUp (count) {
  const name = `one subscriber that is ${count.toLocaleString('en-US')} events behind`
  return {
    rows: [
      { key: 'time', name: `${name}: until it has all`, unit: 'ms', isLess: true },
      { key: 'reads', name: `${name}: reads`, unit: '', isLess: true }
    ],
    async measure (context) {
      return await withNodes(context, 2, async ([publisher, subscriber], { kind, redis }) => {
        await publisher.tell('bursts', { channels: 1, count, size: 1000, history: count })
        const command = kind === 'bare' ? 'xrange' : 'evalsha'
        const before = await redis.calls(command)
        const { answer: time } = await subscriber.tell('catchUp', { count })
        return { time, reads: await redis.calls(command) - before }
      })
    }
  }
}

/** Connections and requests come as fast as one core makes them; each is to get the event that says where it is, and all that it has missed. */
function storm ({ clients, events }) {
  const name = `${clients.toLocaleString('en-US')} clients that come back ${events} events behind, at once`
  return {
    rows: [
      { key: 'blocked', name: `${name}: turns of the event loop over 20 ms, all of them`, unit: 'ms', isLess: true, goal: 500 },
      { key: 'longest', name: `${name}: the longest turn`, unit: 'ms', isLess: true },
      { key: 'busy', name: `${name}: all turns`, unit: 'ms', isLess: true },
      { key: 'cpu', name: `${name}: CPU of the server`, unit: 'ms', isLess: true },
      { key: 'time', name: `${name}: until all have all`, unit: 'ms', isLess: true },
      { key: 'reads', name: `${name}: reads of Redis`, unit: '', isLess: true, goal: 10 }
    ],
    async measure ({ kind, client, redis, programs }) {
      await redis.wipe()
      const server = await Server.start(kind, [client, redis.socket], program('storm-server.js'))
      const load = new Client(programs.client)
      server.pin()
      load.pin()
      try {
        const { answer: id } = await server.tell('publish', { count: events })
        const come = async count => await load.tell(`dial ${count} ${server.port} /?lastEventId=${id}\nask ${events + 1}`)
        // What is run is compiled.
        await come(200)
        await load.tell('close')
        await setTimeout(500)
        const before = await redis.calls('evalsha')
        await server.tell('begin')
        const [, nanoseconds] = await limited(come(clients))
        const { answer: { gaps, ...figures } } = await server.tell('end')
        if (gaps > 0) throw new Error(`${gaps} gaps`)
        return { ...figures, time: nanoseconds / 1e6, reads: await redis.calls('evalsha') - before }
      } finally {
        await Promise.all([server.stop(), load.stop()])
      }
    }
  }
}

async function withNodes (context, count, work) {
  const { kind, client, redis } = context
  await redis.wipe()
  const nodes = await Promise.all(Array.from({ length: count }, () => Server.start(kind, [client, redis.socket], program('node.js'))))
  for (const node of nodes) node.pin()
  try {
    return await limited(work(nodes, context))
  } finally {
    await Promise.all(nodes.map(node => node.stop()))
  }
}
