/**
 * The server that a storm comes to, in a process of its own: an app with one channel over Redis, or plain node:http that
 * writes the same text to everybody from one buffer.
 * node bench/redis/storm-server.js KIND CLIENT SOCKET
 */
import { once } from 'node:events'
import http from 'node:http'
import Fastify from 'fastify'
import streaming from 'fastify-streaming'
import { redisBroker } from 'fastify-streaming/redis'
import { connect } from './clients.js'
import { measureTurns } from './turns.js'

const [kind, client, socket] = process.argv.slice(2)
const { client: redis } = await connect(client, socket)
const app = Fastify()
await app.register(streaming, { broker: redisBroker({ client: redis }), heartbeat: 0 })
const channel = app.streaming.channel('news', { history: { events: 1000 } })
app.get('/', (request, reply) => reply.sse(channel))

let body
const raw = http.createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
  response.write(body)
})
const server = kind === 'bare' ? raw : app.server
// The queue of those that wait to be accepted is as long as the system lets it be.
if (kind === 'bare') {
  raw.listen({ port: 0, host: '127.0.0.1', backlog: 65_535 })
  await once(raw, 'listening')
} else {
  await app.listen({ port: 0, host: '127.0.0.1', backlog: 65_535 })
}

let stop
let cpu
const commands = {
  /** Publishes one event, and so many that those who have seen only that one have missed. Answers with its id. */
  async publish ({ count }) {
    const data = 'x'.repeat(100)
    const id = await channel.publish(data)
    const ids = await Promise.all(Array.from({ length: count }, () => channel.publish(data)))
    body = [`event: position\nid: ${id}\ndata: {}\n\n`, ...ids.map(id => `id: ${id}\ndata: ${data}\n\n`)].join('')
    body = Buffer.from(body)
    return id
  },
  begin () {
    cpu = process.cpuUsage()
    stop = measureTurns()
  },
  end () {
    const { user, system } = process.cpuUsage(cpu)
    return { ...stop(), cpu: (user + system) / 1000, gaps: app.streaming.stats().gaps }
  }
}

process.on('message', async ({ id, command, ...options }) => {
  process.send({ id, answer: await commands[command](options) })
})
process.on('disconnect', () => process.exit())
process.send({ id: 'ready', answer: { port: server.address().port } })
