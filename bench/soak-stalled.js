/**
 * 50 clients that never read are offered 100 MB each: the server grows by less than 2 MB for each, whatever offers it.
 * `npm run build && node bench/soak-stalled.js` prints the figures, and exits with 1 when it grows more.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import streaming from 'fastify-streaming'

const clients = 50
const eventBytes = 50_000
const offered = 100_000_000
const mostPerClient = 2_000_000

// No two events share their memory.
const event = n => Buffer.alloc(eventBytes, 97 + n % 26).toString('latin1')
const events = offered / eventBytes

const offers = {
  'an async iterable': reply => reply.sse((async function * () {
    for (let n = 0; n < events; n++) yield event(n)
  })()),
  'await send()': reply => reply.sse(async stream => {
    for (let n = 0; n < events && await stream.send(event(n)); n++);
  }),
  'send() without await': reply => reply.sse(async stream => {
    for (let n = 0; n < events; n++) {
      stream.send(event(n))
      await new Promise(resolve => setImmediate(resolve))
    }
  }),
  'an iterable': reply => reply.sse((function * () {
    for (let n = 0; n < events; n++) yield event(n)
  })())
}

if (process.send === undefined) await measureAll()
else await serve()

async function measureAll () {
  for (const name of Object.keys(offers)) {
    const perClient = await measure(name)
    console.log(`${name}: ${(perClient / 1e6).toFixed(2)} MB a client (less than ${mostPerClient / 1e6})`)
    if (perClient >= mostPerClient) process.exitCode = 1
  }
}

async function measure (name) {
  const server = fork(fileURLToPath(import.meta.url), [name], { execArgv: ['--expose-gc'] })
  const [{ port }] = await once(server, 'message')
  const settled = async () => {
    server.send('settle')
    const [{ rss }] = await once(server, 'message')
    return rss
  }
  // A client that reads everything: what the first one costs is compiled code and the buffers of the garbage collector.
  await new Promise(resolve => open(port).resume().on('close', resolve))
  const before = await settled()
  const sockets = Array.from({ length: clients }, () => open(port).pause())
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  const after = await settled()
  for (const socket of sockets) socket.destroy()
  server.disconnect()
  return (after - before) / clients
}

function open (port) {
  const socket = net.connect(port, '127.0.0.1')
  socket.on('error', () => {})
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  return socket
}

async function serve () {
  const app = Fastify()
  await app.register(streaming)
  app.get('/', (request, reply) => offers[process.argv[2]](reply))
  await app.listen({ port: 0, host: '127.0.0.1' })
  process.on('message', async () => {
    // Everything stands still when a second has gone by in which nothing was computed.
    let { user } = process.cpuUsage()
    for (;;) {
      await new Promise(resolve => setTimeout(resolve, 1000))
      const now = process.cpuUsage().user
      if (now - user < 20_000) break
      user = now
    }
    global.gc()
    await new Promise(resolve => setTimeout(resolve, 500))
    process.send(process.memoryUsage())
  })
  process.on('disconnect', () => process.exit())
  process.send({ port: app.server.address().port })
}
