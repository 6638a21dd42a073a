/**
 * Channels in figures: events per second to 1, 100, 1000 and 10,000 subscribers as a ratio to a loop of raw
 * response.write() in the same run (server here, clients in a process of their own, A B A B), and heap per subscriber
 * and per retained event. Run with: node --expose-gc bench/channels.js
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import streaming from 'fastify-streaming'

const rounds = 3

if (process.argv[2] === 'clients') await clients()
else await server()

/** Opens connections, and tells how many bytes have come over all of them. */
async function clients () {
  let sockets = []
  let bytes = 0
  let wanted = Infinity
  process.on('message', async ({ open, port, want }) => {
    if (open !== undefined) {
      for (const socket of sockets) socket.destroy()
      sockets = []
      bytes = 0
      wanted = Infinity
      for (let i = 0; i < open; i++) {
        // More than one address, as one has too few ports.
        const socket = net.connect({ port, host: `127.0.0.${1 + i % 4}` })
        sockets.push(socket)
        socket.on('error', () => {})
        socket.write('GET / HTTP/1.1\r\nHost: bench\r\n\r\n')
        socket.on('data', chunk => {
          bytes += chunk.length
          if (bytes >= wanted) {
            wanted = Infinity
            process.send('got it')
          }
        })
        if (i % 200 === 199 || i === open - 1) await once(socket, 'data')
      }
      process.send('open')
    }
    if (want !== undefined) {
      wanted = bytes + want
    }
  })
  process.on('disconnect', () => process.exit())
}

async function server () {
  const child = fork(fileURLToPath(import.meta.url), ['clients'])
  const tell = async (message, answer) => {
    child.send(message)
    while ((await once(child, 'message'))[0] !== answer);
  }

  const app = Fastify()
  await app.register(streaming, { heartbeat: 15_000 })
  const channel = app.streaming.channel('bench')
  app.get('/', (request, reply) => reply.sse(channel))
  await app.listen({ port: 0, host: '0.0.0.0' })

  const responses = new Set()
  const raw = http.createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform' })
    response.write(': hello\n')
    responses.add(response)
    response.on('close', () => responses.delete(response))
  })
  raw.listen(0, '0.0.0.0')
  await once(raw, 'listening')

  const data = 'x'.repeat(100)
  const ports = { ours: app.server.address().port, raw: raw.address().port }
  const publish = {
    ours: () => { void channel.publish({ event: 'tick', data }) },
    raw: n => {
      const block = `event: tick\nid: ${n}-0123456789ab.abcdef\ndata: ${data}\n\n`
      for (const response of responses) response.write(block)
    }
  }
  const open = { ours: () => channel.size, raw: () => responses.size }

  for (const [subscribers, events] of [[1, 10_000], [100, 1500], [1000, 200], [10_000, 30]]) {
    const times = { ours: [], raw: [] }
    const cpu = { ours: [], raw: [] }
    for (let round = 0; round < rounds; round++) {
      for (const kind of ['ours', 'raw']) {
        await tell({ open: subscribers, port: ports[kind] }, 'open')
        while (open[kind]() !== subscribers) await new Promise(resolve => setTimeout(resolve, 10))
        await new Promise(resolve => setTimeout(resolve, 200))
        // Chunk framing included: no fewer bytes than these come.
        const got = tell({ want: subscribers * events * 130 }, 'got it')
        const start = performance.now()
        const before = process.cpuUsage()
        for (let n = 0; n < events; n++) {
          publish[kind](n)
          await new Promise(resolve => setImmediate(resolve))
        }
        await got
        times[kind].push(performance.now() - start)
        const { user, system } = process.cpuUsage(before)
        cpu[kind].push((user + system) / 1000)
        await tell({ open: 0, port: ports[kind] }, 'open')
        while (open[kind]() !== 0) await new Promise(resolve => setTimeout(resolve, 10))
      }
    }
    const rate = median(times.ours)
    console.log(`${subscribers} subscribers: ${Math.round(events / rate * 1000)} events/s, ${Math.round(events * subscribers / rate * 1000)} deliveries/s, ` +
      `${(median(times.raw) / rate).toFixed(2)} × raw (${times.ours.map((time, i) => (times.raw[i] / time).toFixed(2)).join(' ')}), ` +
      `CPU ${(median(cpu.ours) / median(cpu.raw)).toFixed(2)} × raw`)
  }

  if (global.gc !== undefined) {
    for (const kind of ['raw', 'ours']) {
      const count = 2000
      await settle()
      const before = process.memoryUsage().heapUsed
      await tell({ open: count, port: ports[kind] }, 'open')
      while (open[kind]() !== count) await new Promise(resolve => setTimeout(resolve, 10))
      await settle()
      console.log(`heap per ${kind === 'ours' ? 'subscriber' : 'raw response'}: ${Math.round((process.memoryUsage().heapUsed - before) / count)} bytes`)
      await tell({ open: 0, port: ports[kind] }, 'open')
      while (open[kind]() !== 0) await new Promise(resolve => setTimeout(resolve, 10))
    }
    const kept = app.streaming.channel('kept', { history: { events: 100_000, bytes: 1 << 30 } })
    await settle()
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < 100_000; i++) await kept.publish({ event: 'tick', data: `${i}`.padEnd(100, 'x') })
    await settle()
    console.log(`heap per retained event with 100 bytes of data: ${Math.round((process.memoryUsage().heapUsed - before) / 100_000)} bytes`)
  }

  child.disconnect()
  raw.close()
  raw.closeAllConnections()
  await app.close()
}

async function settle () {
  for (let i = 0; i < 5; i++) {
    await new Promise(resolve => setTimeout(resolve, 50))
    global.gc()
  }
}

function median (values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]
}
