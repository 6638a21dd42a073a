/**
 * The work of the benchmark. `work` does it once with one server, and gives a figure; with `also`, figures of rows of
 * their own; and the share of its core that the client took, where the client could be what holds up the work.
 * `prepare` comes once before all rounds, for all libraries at the same time, and gets the compiler going: without it
 * there is one more round, that does not count. `isFresh` is a server of its own for each round.
 *
 * `rounds` are 3 and `quickRounds`, those of --quick, 2 if nothing is said; `quickNote` says what else is other there.
 */
import { setTimeout } from 'node:timers/promises'

// These send events only.
const eventLibraries = ['@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3']
const notForChunks = [...eventLibraries, 'C']
const forEventsOfAsync = ['C']
// They would come while others are at work, and some have the blank line of an event.
const noHeartbeats = 'heartbeat=600000'

export const workloads = [
  {
    name: 'fan-out, 1000 subscribers, one event a turn',
    unit: 'deliveries/s',
    reach: '≥ 1.3',
    flags: [noHeartbeats],
    ...fanOut({ subscribers: 1000, turns: 60, quickTurns: 15 })
  },
  {
    name: 'fan-out, 10,000 subscribers, one event after the other',
    unit: 'deliveries/s',
    reach: '≥ 1.2',
    flags: [noHeartbeats],
    without: ['C'],
    rounds: 2,
    quickRounds: 1,
    quickNote: '2000 with --quick',
    ...rounds({ subscribers: 10_000, quickSubscribers: 2000, events: 6, quickEvents: 4 })
  },
  {
    name: 'fan-out, 1000 subscribers, 8 events a turn',
    unit: 'deliveries/s',
    reach: '≥ 1.9',
    flags: [noHeartbeats],
    without: ['C'],
    ...fanOut({ subscribers: 1000, turns: 20, quickTurns: 3, burst: 8 })
  },
  {
    name: 'HTTP/2, 10 sessions × 100 streams, fan-out, one event a turn',
    unit: 'deliveries/s',
    reach: '≥ 1.0',
    // streamSSE() of hono sets `transfer-encoding`, which HTTP/2 forbids: the process dies of it.
    without: ['C', 'hono'],
    flags: ['http2', noHeartbeats],
    client: 'http2Client',
    ...fanOut({ subscribers: 1000, turns: 60, quickTurns: 20 })
  },
  {
    name: 'one stream, async generator of small events',
    unit: 'events/s',
    reach: '≥ 2.0',
    without: forEventsOfAsync,
    ...oneStream({ path: '/async', streams: 1, events: 200_000, quickEvents: 30_000 })
  },
  {
    name: 'one stream, sync generator of small events',
    unit: 'events/s',
    reach: '≥ 2.4',
    without: notForChunks,
    ...oneStream({ path: '/sync', streams: 1, events: 200_000, quickEvents: 30_000 })
  },
  {
    name: '50 streams at once, async generators',
    unit: 'events/s',
    reach: '≥ 2.1',
    without: forEventsOfAsync,
    ...oneStream({ path: '/async', streams: 50, events: 4000, quickEvents: 600 })
  },
  {
    name: 'short replies of 20 events, 50 keep-alive connections',
    unit: 'replies/s',
    reach: '≥ 1.9',
    without: ['C'],
    ...shortReplies({ replies: 5000, quickReplies: 1000, warmUp: 3000 })
  },
  {
    name: '64 KiB chunks on one response',
    unit: 'MB/s',
    reach: '≥ 1.4',
    without: notForChunks,
    async work ({ server, client, isQuick }) {
      const chunks = isQuick ? 3000 : 8000
      await client.tell(`dial 1 ${server.port} /chunks?n=${chunks}`)
      const [, nanoseconds, cpu] = await client.tell(`stream ${chunks * 65_536}`)
      await client.tell('close')
      return { figure: chunks * 65_536 / nanoseconds * 1000, clientShare: cpu * 1000 / nanoseconds }
    }
  },
  {
    name: 'one event every 100 ms to 1000 subscribers: p50',
    unit: 'µs',
    reach: '≤ 0.85',
    isLess: true,
    also: { p99: { unit: 'µs', reach: '≤ 1.0' }, 'server CPU an event': { unit: 'µs', reach: '≤ 0.9' } },
    flags: [noHeartbeats],
    without: ['C'],
    rounds: 1,
    quickRounds: 1,
    async prepare ({ server, client }) {
      await open(server, client, 1000)
      await quiet(client)
    },
    async work ({ server, client, isQuick }) {
      const events = isQuick ? 10 : 30
      // The first events are cold, and would be all of p99.
      await delivered(server, client, 'want 20', ['beat', { events: 20, every: 10 }])
      const [[,,, p50, p99], cpu] = await delivered(server, client, `latency ${events}`, ['beat', { events, every: 100 }])
      return { figure: Number(p50), p99: Number(p99), 'server CPU an event': cpu / events }
    }
  },
  {
    name: '10,000 idle subscribers: RSS each',
    unit: 'KiB',
    reach: '≤ 11 KiB and below raw',
    isLess: true,
    isFresh: true,
    also: { 'heap each': { unit: 'KiB', reach: '≤ 6.5 KiB' }, 'CPU per heartbeat': { unit: 'µs', reach: '≤ 0.6' } },
    flags: ['heartbeat=2000'],
    // They have no heartbeats, or none that can be set.
    without: ['C', 'fastify + reply.raw', 'reply.send(Readable)', 'fastify-sse-v2', 'hono', 'h3'],
    rounds: 1,
    quickRounds: 1,
    quickNote: '2000 with --quick',
    async work ({ server, client, isQuick }) {
      const subscribers = isQuick ? 2000 : 10_000
      await open(server, client, 100)
      await close(server, client)
      const { answer: before } = await server.tell('measure')
      await open(server, client, subscribers)
      const { answer: after } = await server.tell('measure')
      // Without what `measure` collects.
      const { answer: start } = await server.tell('cpu')
      await client.tell('tally')
      await setTimeout(isQuick ? 2000 : 6000)
      const [, bytes] = await client.tell('tally')
      const { answer: end } = await server.tell('cpu')
      return {
        figure: (after.rss - before.rss) / subscribers / 1024,
        'heap each': (after.heapUsed - before.heapUsed) / subscribers / 1024,
        // Of a chunk with a comment without text.
        'CPU per heartbeat': (end - start) / (bytes / 7)
      }
    }
  },
  {
    name: '100 readers that never read, one that does, 10 MB each: RSS',
    unit: 'MB',
    reach: '< 120 MB',
    isLess: true,
    isFresh: true,
    also: { 'time until the healthy one has all': { unit: 'ms', reach: '' } },
    without: notForChunks,
    quickRounds: 1,
    async work ({ server, client }) {
      const chunks = 160
      await client.tell(`dial 101 ${server.port} /chunks?n=${chunks}`)
      await client.tell('pause 100')
      const [, nanoseconds] = await client.tell(`stream ${chunks * 65_536}`)
      const { answer: { rss } } = await server.tell('measure')
      return { figure: rss / 1e6, 'time until the healthy one has all': nanoseconds / 1e6 }
    }
  }
]

/** The name of the row of a further figure. */
export function nameOf (workload, key) {
  return `${workload.name.split(':')[0]}: ${key}`
}

/** Events are published in turns of the loop, without waiting for anybody. */
function fanOut ({ subscribers, turns, quickTurns, burst = 1 }) {
  const publish = async ({ server, client }, turns) => await delivered(server, client, `want ${turns * burst}`, ['turns', { turns, burst }])
  return {
    async prepare ({ server, client }) {
      await open(server, client, subscribers)
      await quiet(client)
      await publish({ server, client }, quickTurns)
    },
    async work ({ server, client, isQuick }) {
      const count = isQuick ? quickTurns : turns
      const [[, nanoseconds, cpu]] = await publish({ server, client }, count)
      return { figure: subscribers * count * burst / nanoseconds * 1e9, clientShare: cpu * 1000 / nanoseconds }
    }
  }
}

/** An event is published when everybody has the one before: nobody can join two of them. */
function rounds ({ subscribers, quickSubscribers, events, quickEvents }) {
  const publish = async ({ server, client }, rounds) => await delivered(server, client, `want ${rounds}`, ['rounds', { rounds }])
  return {
    async prepare ({ server, client, isQuick }) {
      await open(server, client, isQuick ? quickSubscribers : subscribers)
      await quiet(client)
      await client.tell(`acknowledge ${server.acknowledgePort}`, { answers: false })
      await publish({ server, client }, 1)
    },
    async work ({ server, client, isQuick }) {
      const [count, rounds] = isQuick ? [quickSubscribers, quickEvents] : [subscribers, events]
      const [[, nanoseconds, cpu]] = await publish({ server, client }, rounds)
      return { figure: count * rounds / nanoseconds * 1e9, clientShare: cpu * 1000 / nanoseconds }
    }
  }
}

function oneStream ({ path, streams, events, quickEvents }) {
  return {
    async work ({ server, client, isQuick }) {
      const count = isQuick ? quickEvents : events
      const { figure, clientShare } = await answered({ server, client }, { path, connections: streams, replies: streams, events: count })
      return { figure: figure * count, clientShare }
    }
  }
}

function shortReplies ({ replies, quickReplies, warmUp }) {
  const ask = async (pair, replies) => await answered(pair, { path: '/short', connections: 50, replies, events: 20 })
  return {
    prepare: async pair => { await ask(pair, warmUp) },
    work: async ({ isQuick, ...pair }) => await ask(pair, isQuick ? quickReplies : replies)
  }
}

/** Has so many replies of so many events given over so many connections: resolves with replies per second, and the client's share of its core. */
async function answered ({ server, client }, { path, connections, replies, events }) {
  await client.tell(`dial ${connections} ${server.port} ${path}?n=${events}`)
  const [, nanoseconds, cpu] = await client.tell(`replies ${replies} ${events}`)
  await client.tell('close')
  return { figure: replies / nanoseconds * 1e9, clientShare: cpu * 1000 / nanoseconds }
}

/** Opens so many subscribers, and waits until the server knows of all, and of those that are there already. */
export async function open (server, client, subscribers, others = 0) {
  await client.tell(`open ${subscribers} ${server.port} /fan`)
  await hasSize(server, subscribers + others)
}

/** Waits until nothing is on its way. */
export async function quiet (client) {
  do await setTimeout(20)
  while ((await client.tell('tally'))[1] !== '0')
}

/** Has the client count what the server is told to publish: resolves with the client's words and the server's CPU. */
export async function delivered (server, client, wanted, [command, options]) {
  const counted = client.tell(wanted)
  const published = setTimeout(5).then(async () => await server.tell(command, options))
  const [words, { cpu }] = await Promise.all([counted, published])
  return [words, cpu]
}

/** Closes all of a client, and waits until the server has only those of others. */
export async function close (server, client, others = 0) {
  await client.tell('close')
  await hasSize(server, others)
}

/** A server that does not count has any size. */
async function hasSize (server, size) {
  while (![size, undefined].includes((await server.tell('size')).answer)) await setTimeout(20)
}
