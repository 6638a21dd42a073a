/**
 * The work of the benchmark. `work` does it once with one server, and gives a figure.
 */

// They have no channels or chunks of their own, or no way to send what a sync iterable gives.
const notForChunks = ['@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3', 'C']
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
    without: ['@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3', 'C'],
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
