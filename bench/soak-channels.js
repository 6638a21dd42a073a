/**
 * Channels under stress: 200 subscribers that never read while 100 MB are published, beside one that does; 10,000 that
 * come and go; a broadcast to 10,000. `npm run build && node bench/soak-channels.js` prints the figures, and exits with
 * 1 when one is worse than what is promised.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import streaming from 'fastify-streaming'

if (process.send === undefined) await measure()
else await serve()

async function serve () {
  const app = Fastify()
  await app.register(streaming)
  const channel = app.streaming.channel('soak')
  app.get('/', (request, reply) => reply.sse(channel))
  await app.listen({ port: 0, host: '0.0.0.0' })
  const settle = async () => {
    for (let i = 0; i < 5; i++) {
      await new Promise(resolve => setTimeout(resolve, 50))
      global.gc()
    }
  }
  const tasks = {
    memory: async () => {
      await settle()
      const { rss, heapUsed } = process.memoryUsage()
      return { rss, heapUsed }
    },
    size: async () => channel.size,
    // No two events share their memory; each names when it was published.
    publish: async ({ count, bytes }) => {
      for (let n = 0; n < count; n++) {
        await channel.publish({ data: `${Date.now()}:${Buffer.alloc(bytes, 97 + n % 26).toString('latin1')}` })
        await new Promise(resolve => setTimeout(resolve, 1))
      }
    },
    // The longest time in which nothing else ran.
    broadcast: async () => {
      const turns = []
      let isOver = false
      let last = { time: performance.now(), cpu: process.cpuUsage() }
      const turn = () => {
        const { user, system } = process.cpuUsage(last.cpu)
        const now = performance.now()
        // Time that other processes had the processor is not ours.
        turns.push(Math.min(now - last.time, (user + system) / 1000))
        last = { time: now, cpu: process.cpuUsage() }
        if (!isOver) setImmediate(turn)
      }
      turn()
      for (let n = 0; n < 10; n++) {
        await channel.publish('x'.repeat(100))
        await new Promise(resolve => setTimeout(resolve, 400))
      }
      isOver = true
      turns.sort((a, b) => b - a)
      return { turns: turns.slice(0, 40).map(time => Math.round(time)) }
    },
    // Iterators, which need no socket.
    cycles: async ({ count }) => {
      for (let n = 0; n < count; n++) {
        const iterator = channel.subscribe()
        if (n % 2 === 0) await iterator.next()
        await iterator.return()
      }
    }
  }
  process.on('message', async ({ task, ...options }) => { process.send({ done: await tasks[task](options) ?? true }) })
  process.on('disconnect', () => process.exit())
  process.send({ port: app.server.address().port })
}

async function measure () {
  const server = fork(fileURLToPath(import.meta.url), { execArgv: ['--expose-gc'] })
  const [{ port }] = await once(server, 'message')
  const ask = async (task, options) => {
    server.send({ task, ...options })
    return (await once(server, 'message'))[0].done
  }
  const open = i => {
    const socket = net.connect({ port, host: `127.0.0.${1 + i % 4}` })
    socket.on('error', () => {})
    socket.write('GET / HTTP/1.1\r\nHost: soak\r\n\r\n')
    return socket
  }
  const subscribed = async count => {
    while (await ask('size') !== count) await new Promise(resolve => setTimeout(resolve, 10))
  }
  const check = (text, isGood) => {
    console.log(`${isGood ? 'ok  ' : 'FAIL'} ${text}`)
    if (!isGood) process.exitCode = 1
  }

  const healthy = open(0)
  const received = { bytes: 0 }
  let delays = []
  healthy.setEncoding('latin1')
  healthy.on('data', chunk => {
    received.bytes += chunk.length
    const now = Date.now()
    for (const [, time] of chunk.matchAll(/data: (\d+):/g)) delays.push(now - time)
  })
  await subscribed(1)
  await ask('publish', { count: 2000, bytes: 50_000 })
  const alone = percentile(delays, 0.99)
  delays = []
  const before = (await ask('memory')).rss
  const stalled = Array.from({ length: 200 }, (_, i) => open(i).pause())
  await subscribed(201)
  received.bytes = 0
  await ask('publish', { count: 2000, bytes: 50_000 })
  const perClient = ((await ask('memory')).rss - before) / stalled.length
  while (received.bytes < 2000 * 50_000) await new Promise(resolve => setTimeout(resolve, 10))
  check(`200 subscribers that never read, 100 MB published: ${(perClient / 1e6).toFixed(2)} MB of RSS each (less than 1)`, perClient < 1e6)
  console.log(`     the one that reads got its events after ${percentile(delays, 0.5)} ms, 99 % within ${percentile(delays, 0.99)} ms; alone 99 % within ${alone} ms`)
  for (const socket of [...stalled, healthy]) socket.destroy()
  await subscribed(0)

  await ask('cycles', { count: 2000 })
  const heapBefore = (await ask('memory')).heapUsed
  await ask('cycles', { count: 10_000 })
  const growth = (await ask('memory')).heapUsed - heapBefore
  check(`10,000 subscribers that come and go: the heap grows by ${Math.round(growth / 1024)} KiB (less than 512)`, growth < 512 * 1024)

  const sockets = []
  for (let i = 0; i < 10_000; i++) {
    sockets.push(open(i).resume())
    if (i % 200 === 199) await once(sockets.at(-1), 'data')
  }
  await subscribed(10_000)
  const { turns } = await ask('broadcast')
  check(`ten broadcasts to 10,000: the longest turns of the event loop take ${turns.slice(0, 5).join(', ')} ms (about 20 promised)`, turns[4] < 25)
  for (const socket of sockets) socket.destroy()
  server.disconnect()
}

function percentile (values, share) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
}
