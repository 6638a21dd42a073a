/**
 * One process that publishes or subscribes: it is told what to do, and answers when that is done.
 * node bench/redis/node.js KIND CLIENT SOCKET
 */
import { setTimeout } from 'node:timers/promises'
import { makeKind } from './kinds.js'

const [name, client, socket] = process.argv.slice(2)
const kind = await makeKind(name, client, socket)
const data = 'x'.repeat(100)
const channelOf = i => `channel ${i}`

/** Milliseconds from publish to delivery. */
let latencies = []
let wanted = Infinity
let gotAll

const commands = {
  async subscribe ({ channels }) {
    await kind.subscribe(Array.from({ length: channels }, (_, i) => channelOf(i)), text => {
      // All processes of a machine have one monotonic clock.
      latencies.push(Number(process.hrtime.bigint() - BigInt(text)) / 1e6)
      if (latencies.length === wanted) gotAll()
    })
  },

  /** Once so many events have come in all. */
  async latencies ({ count }) {
    if (latencies.length < count) {
      wanted = count
      await new Promise(resolve => { gotAll = resolve })
    }
    if (latencies.length > count) throw new Error(`${latencies.length - count} events too many`)
    const all = latencies
    latencies = []
    return all
  },

  /** One event after the other, with a pause, each to another channel, from one end of them to the other. */
  async paced ({ channels, count, pause }) {
    for (let i = 0; i < count; i++) {
      await kind.publish(channelOf(Math.floor(i * channels / count)), String(process.hrtime.bigint()))
      await setTimeout(pause)
    }
  },

  /** Answers with the milliseconds that it took. */
  async awaited ({ count, history }) {
    const start = performance.now()
    for (let i = 0; i < count; i++) await kind.publish(channelOf(0), data, history)
    return performance.now() - start
  },

  /** The same, of which so many are on their way at a time. */
  async bursts ({ channels, count, size, history }) {
    const start = performance.now()
    for (let i = 0; i < count; i += size) {
      await Promise.all(Array.from({ length: size }, (_, k) => kind.publish(channelOf(k % channels), data, history)))
    }
    return performance.now() - start
  },

  async catchUp ({ count }) {
    const start = performance.now()
    await kind.catchUp(channelOf(0), count)
    return performance.now() - start
  }
}

process.on('message', async ({ id, command, ...options }) => {
  process.send({ id, answer: await commands[command](options) })
})
process.on('disconnect', () => process.exit())
process.send({ id: 'ready', answer: {} })
