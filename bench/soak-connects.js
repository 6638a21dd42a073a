/**
 * 2000 clients come and go: the heap of the server and its listeners stay as they were.
 * `npm run build && node bench/soak-connects.js` prints the figures, and exits with 1 when they grow.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import streaming from 'fastify-streaming'

const clients = 2000
const atOnce = 50
// A stream that left as little as one object behind would cost more.
const mostBytesPerClient = 128

if (process.send === undefined) await measure()
else await serve()

async function measure () {
  const server = fork(fileURLToPath(import.meta.url), { execArgv: ['--expose-gc'] })
  const [{ port }] = await once(server, 'message')
  const look = async () => {
    server.send('look')
    const [figures] = await once(server, 'message')
    return figures
  }
  // What the first clients leave is compiled code and filled pools.
  await connect(port, clients)
  const before = await look()
  for (let served = 0; served < clients; served += clients / 4) {
    await connect(port, clients / 4)
    const { heap, listeners } = await look()
    console.log(`${served + clients / 4} clients: heap ${kibibytes(heap - before.heap)} KiB more, ${listeners - before.listeners} listeners more`)
  }
  const after = await look()
  server.disconnect()
  const perClient = (after.heap - before.heap) / clients
  console.log(`heap ${kibibytes(before.heap)} → ${kibibytes(after.heap)} KiB: ${Math.round(perClient)} bytes a client (at most ${mostBytesPerClient})`)
  console.log(`listeners ${before.listeners} → ${after.listeners}, streams still open: ${after.open}`)
  const isFlat = perClient <= mostBytesPerClient && after.listeners === before.listeners && after.open === 0
  process.exitCode = isFlat ? 0 : 1
}

/** Each client waits for its first event and leaves. */
async function connect (port, count) {
  for (let i = 0; i < count; i += atOnce) {
    await Promise.all(Array.from({ length: atOnce }, async () => {
      const socket = net.connect(port, '127.0.0.1')
      socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
      for await (const chunk of socket) if (chunk.includes('data: hello')) break
      socket.destroy()
    }))
  }
}

async function serve () {
  const { signal } = new AbortController()
  let signalListeners = 0
  const { addEventListener, removeEventListener } = signal
  signal.addEventListener = (...args) => { signalListeners++; addEventListener.apply(signal, args) }
  signal.removeEventListener = (...args) => { signalListeners--; removeEventListener.apply(signal, args) }
  let open = 0
  const app = Fastify()
  await app.register(streaming, { onClose () { open-- } })
  app.get('/', (request, reply) => {
    open++
    return reply.sse(async function * (stream) {
      yield 'hello'
      await new Promise(resolve => stream.signal.addEventListener('abort', resolve))
    }, { signal, maxDuration: 3_600_000 })
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  process.on('message', async () => {
    for (const isBusy = () => open > 0; isBusy();) await new Promise(resolve => setImmediate(resolve))
    for (let i = 0; i < 3; i++) {
      global.gc()
      await new Promise(resolve => setTimeout(resolve, 50))
    }
    const listeners = [app.server, process].flatMap(emitter => emitter.eventNames().map(name => emitter.listenerCount(name)))
    process.send({ heap: process.memoryUsage().heapUsed, listeners: listeners.reduce((sum, n) => sum + n, signalListeners), open })
  })
  process.on('disconnect', () => process.exit())
  process.send({ port: app.server.address().port })
}

function kibibytes (bytes) {
  return Math.round(bytes / 1024)
}
