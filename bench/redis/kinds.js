/**
 * What is compared: channels of this package over Redis, and the least that keeps and tells events, which is a script
 * of XADD with MAXLEN and PUBLISH through the same client.
 */
import { createHash } from 'node:crypto'
import { createChannels } from 'fastify-streaming'
import { redisBroker } from 'fastify-streaming/redis'
import { connect } from './clients.js'

/** Events of a channel that are kept, where a workload does not say otherwise. */
const usualHistory = 256
const bareScript = `
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'd', ARGV[2])
redis.call('PUBLISH', KEYS[1], ARGV[2])
return id`
const pageSize = 256

export async function makeKind (kind, client, socket) {
  const connection = await connect(client, socket)
  return kind === 'bare' ? await bare(connection) : ours(connection)
}

function ours ({ client }) {
  const channels = createChannels({ broker: redisBroker({ client }) })
  const kept = new Map()
  const channel = (name, history) => {
    // Whoever drops a channel makes it anew with each call.
    if (!kept.has(name)) kept.set(name, channels.channel(name, { history: { events: history, bytes: 1 << 30 } }))
    return kept.get(name)
  }
  return {
    publish: (name, data, history = usualHistory) => channel(name, history).publish(data),
    subscribe: async (names, listener) => {
      await Promise.all(names.map(async name => {
        const items = channel(name, usualHistory).subscribe()
        await items.next()
        void follow(items, listener)
      }))
    },
    /** Resolves when everything that is kept has been read. */
    catchUp: async (name, count) => {
      let got = 0
      for await (const { type } of channel(name, count).subscribe({ replay: 'all' })) {
        if (type === 'gap') throw new Error('a gap')
        if (type === 'event' && ++got === count) return
      }
    }
  }
}

async function follow (items, listener) {
  for await (const { type, data } of items) {
    if (type === 'gap') throw new Error('a gap')
    listener(data)
  }
}

async function bare ({ send, listen }) {
  const sha = createHash('sha1').update(bareScript).digest('hex')
  await send('SCRIPT', 'LOAD', bareScript)
  return {
    // What the channel keeps of the same data.
    publish: (name, data, history = usualHistory) => send('EVALSHA', sha, '1', name, String(history), `\ndata: ${data}\n`),
    subscribe: async (names, listener) => await listen(names, text => listener(text.slice(7, -1))),
    catchUp: async (name, count) => {
      let start = '-'
      for (let got = 0; got < count;) {
        const page = await send('XRANGE', name, start, '+', 'COUNT', String(pageSize))
        if (page.length === 0) throw new Error(`${count - got} events are missing`)
        got += page.length
        start = `(${page.at(-1)[0]}`
      }
    }
  }
}
