/**
 * The work of the benchmark. `work` does it once with one server, and gives a figure.
 */

// These send events only.
const eventLibraries = ['@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3']
const notForChunks = [...eventLibraries, 'C']
const forEventsOfAsync = ['C']

export const workloads = [
  {
    name: 'fan-out, 1000 subscribers, one event a turn',
    unit: 'deliveries/s',
    reach: '≥ 1.3',
    work: fanOut({ subscribers: 1000, turns: 300, quickTurns: 150 })
  },
  {
    name: 'fan-out, 10,000 subscribers, one event after the other',
    unit: 'deliveries/s',
    reach: '≥ 1.2',
    without: ['C'],
    rounds: 3,
    quickRounds: 1,
    work: rounds({ subscribers: 10_000, events: 20, quickEvents: 8 })
  },
  {
    name: 'fan-out, 1000 subscribers, 8 events a turn',
    unit: 'deliveries/s',
    reach: '≥ 1.9',
    without: ['C'],
    work: fanOut({ subscribers: 1000, turns: 60, quickTurns: 20, burst: 8 })
  },
  {
    name: 'one stream, async generator of small events',
    unit: 'events/s',
    reach: '≥ 2.0',
    without: forEventsOfAsync,
    work: oneStream({ path: '/async', streams: 1, events: 1_000_000, quickEvents: 200_000 })
  },
  {
    name: 'one stream, sync generator of small events',
    unit: 'events/s',
    reach: '≥ 2.4',
    without: notForChunks,
    work: oneStream({ path: '/sync', streams: 1, events: 1_000_000, quickEvents: 200_000 })
  },
  {
    name: '50 streams at once, async generators',
    unit: 'events/s',
    reach: '≥ 2.1',
    without: forEventsOfAsync,
    work: oneStream({ path: '/async', streams: 50, events: 20_000, quickEvents: 4000 })
  },
  {
    name: 'short replies of 20 events, 50 keep-alive connections',
    unit: 'replies/s',
    reach: '≥ 1.9',
    without: ['C'],
    async work ({ server, client, isQuick }) {
      const replies = isQuick ? 4000 : 20_000
      await client.tell(`dial 50 ${server.port} /short?n=20`)
      const [, nanoseconds, cpu] = await client.tell(`replies ${replies} 20`)
      return { figure: replies / nanoseconds * 1e9, 'client CPU': cpu * 1000 / nanoseconds }
    }
  },
  {
    name: '64 KiB chunks on one response',
    unit: 'MB/s',
    reach: '≥ 1.4',
    without: notForChunks,
    async work ({ server, client, isQuick }) {
      const chunks = isQuick ? 5000 : 20_000
      await client.tell(`dial 1 ${server.port} /chunks?n=${chunks}`)
      const [, nanoseconds, cpu] = await client.tell(`stream ${chunks * 65_536}`)
      return { figure: chunks * 65_536 / nanoseconds * 1000, 'client CPU': cpu * 1000 / nanoseconds }
    }
  },
  {
    name: 'one event every 100 ms to 1000 subscribers: p50',
    unit: 'µs',
    reach: '≤ 0.85',
    isLess: true,
    also: { p99: '≤ 1.0', 'server CPU': '≤ 0.9' },
    without: ['C'],
    quickRounds: 1,
    async work ({ server, client, isQuick }) {
      const events = isQuick ? 20 : 50
      await open(server, client, 1000)
      const done = client.tell(`latency ${events}`)
      await new Promise(resolve => setTimeout(resolve, 5))
      const { cpu } = await server.tell('beat', { events, every: 100 })
      const [,,, p50, p99] = await done
      await client.tell('close')
      return { figure: Number(p50), p99: Number(p99), 'server CPU': cpu }
    }
  },
  {
    name: '10,000 idle subscribers: RSS each',
    unit: 'KiB',
    reach: '≤ 11 KiB and below raw',
    isLess: true,
    isFresh: true,
    also: { heap: '≤ 6.5 KiB', 'CPU per heartbeat': '≤ 0.6' },
    flags: ['heartbeat=2000'],
    // They have no heartbeats, or none that can be set.
    without: ['C', 'fastify + reply.raw', 'reply.send(Readable)', 'fastify-sse-v2', 'hono', 'h3'],
    rounds: 3,
    quickRounds: 1,
    async work ({ server, client, isQuick }) {
      const subscribers = 10_000
      await open(server, client, 100)
      await client.tell('close')
      await new Promise(resolve => setTimeout(resolve, 500))
      const { answer: before } = await server.tell('measure')
      await open(server, client, subscribers)
      const { answer: after } = await server.tell('measure')
      await client.tell('tally')
      await new Promise(resolve => setTimeout(resolve, isQuick ? 5000 : 10_000))
      const [, bytes] = await client.tell('tally')
      const { answer: later } = await server.tell('measure')
      const cpu = later.cpu.user + later.cpu.system - after.cpu.user - after.cpu.system
      await client.tell('close')
      return {
        figure: (after.rss - before.rss) / subscribers / 1024,
        heap: (after.heapUsed - before.heapUsed) / subscribers / 1024,
        // Of a chunk with a comment without text.
        'CPU per heartbeat': cpu / (bytes / 7)
      }
    }
  },
  {
    name: '100 readers that never read, one that does, 10 MB each: RSS',
    unit: 'MB',
    reach: '< 120 MB',
    isLess: true,
    isFresh: true,
    also: { 'ms until the healthy one has all': '' },
    without: notForChunks,
    rounds: 3,
    quickRounds: 1,
    async work ({ server, client }) {
      const chunks = 160
      await client.tell(`dial 101 ${server.port} /chunks?n=${chunks}`)
      await client.tell('pause 100')
      const [, nanoseconds] = await client.tell(`stream ${chunks * 65_536}`)
      const { answer: { rss } } = await server.tell('measure')
      return { figure: rss / 1e6, 'ms until the healthy one has all': nanoseconds / 1e6 }
    }
  }
]

/** Events are published in turns of the loop, without waiting for anybody. */
function fanOut ({ subscribers, turns, quickTurns, burst = 1 }) {
  return async ({ server, client, isQuick }) => {
    const count = isQuick ? quickTurns : turns
    await open(server, client, subscribers)
    const done = client.tell(`want ${count * burst}`)
    await new Promise(resolve => setTimeout(resolve, 5))
    const { cpu } = await server.tell('turns', { turns: count, burst })
    const [, nanoseconds, clientCpu] = await done
    await client.tell('close')
    return { figure: subscribers * count * burst / nanoseconds * 1e9, 'client CPU': clientCpu * 1000 / nanoseconds, 'µs a delivery': cpu / (subscribers * count * burst) }
  }
}

/** An event is published when everybody has the one before: nobody can join two of them. */
function rounds ({ subscribers, events, quickEvents }) {
  return async ({ server, client, isQuick }) => {
    const count = isQuick ? quickEvents : events
    await open(server, client, subscribers)
    await client.tell(`acknowledge ${server.acknowledgePort}`, { answers: false })
    const done = client.tell(`want ${count}`)
    await new Promise(resolve => setTimeout(resolve, 5))
    await server.tell('rounds', { rounds: count })
    const [, nanoseconds, clientCpu] = await done
    await client.tell('close')
    return { figure: subscribers * count / nanoseconds * 1e9, 'client CPU': clientCpu * 1000 / nanoseconds }
  }
}

function oneStream ({ path, streams, events, quickEvents }) {
  return async ({ server, client, isQuick }) => {
    const count = isQuick ? quickEvents : events
    await client.tell(`dial ${streams} ${server.port} ${path}?n=${count}`)
    const [, nanoseconds, cpu] = await client.tell(`replies ${streams} ${count}`)
    return { figure: streams * count / nanoseconds * 1e9, 'client CPU': cpu * 1000 / nanoseconds }
  }
}

/** Opens so many subscribers, and waits until the server knows of all, and nothing is on its way. */
async function open (server, client, subscribers) {
  await client.tell(`open ${subscribers} ${server.port} /fan`)
  for (;;) {
    const { answer } = await server.tell('size')
    if (answer === undefined || answer === subscribers) break
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  await new Promise(resolve => setTimeout(resolve, 200))
}
