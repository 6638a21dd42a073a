/**
 * One library as a server, in a process of its own: it is told what to do, and answers when that is done.
 * node bench/load/server.js LIBRARY [http2] [heartbeat=MILLISECONDS]
 *
 * The routes: /fan is a subscriber of what is published; /async, /sync and /short are streams of `?n=` small events of
 * an async generator, of a sync one, and of a short answer; /chunks is a body of `?n=` chunks of 64 KiB.
 */
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
import { Readable } from 'node:stream'

const [library, ...flags] = process.argv.slice(2)
const isHttp2 = flags.includes('http2')
const heartbeat = Number(flags.find(flag => flag.startsWith('heartbeat='))?.slice(10) ?? 15_000)

const data = 'x'.repeat(100)
const chunk = Buffer.alloc(64 * 1024, 'x')
const idOf = n => `${n}-0123456789ab.abcdef`

async function * tokens (n) {
  for (let i = 0; i < n; i++) yield { data: `token ${i}` }
}

function * syncTokens (n) {
  for (let i = 0; i < n; i++) yield { data: `token ${i}` }
}

async function * chunks (n) {
  for (let i = 0; i < n; i++) yield chunk
}

/** The text of an event, as a good hand would write it. */
const block = ({ data }) => `data: ${data}\n\n`
const eventHead = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' }

/** Writes what a source gives with the backpressure of the response. */
async function writeAll (response, source, encode) {
  for await (const item of source) if (!response.write(encode(item))) await once(response, 'drain')
  response.end()
}

/** Subscribers as a set of responses, to which text is written once it is encoded. */
function fanOut () {
  const responses = new Set()
  return {
    join (response) {
      response.write(':\n\n')
      responses.add(response)
      response.on('close', () => responses.delete(response))
    },
    publish (n, text = data) {
      const block = `event: tick\nid: ${idOf(n)}\ndata: ${text}\n\n`
      for (const response of responses) response.write(block)
    },
    size: () => responses.size
  }
}

const libraries = {
  async raw () {
    const { join, ...fan } = fanOut()
    const serve = (request, response) => {
      const { pathname, searchParams } = new URL(request.url, 'http://bench')
      const n = Number(searchParams.get('n'))
      const head = eventHead
      if (pathname === '/fan') {
        response.writeHead(200, head)
        join(response)
        const timer = heartbeat > 0 ? setInterval(() => response.write(':\n'), heartbeat) : undefined
        response.on('close', () => clearInterval(timer))
      } else if (pathname === '/chunks') {
        response.writeHead(200, { 'content-type': 'application/octet-stream' })
        writeAll(response, chunks(n), chunk => chunk)
      } else if (pathname === '/sync') {
        response.writeHead(200, head)
        writeAll(response, syncTokens(n), block)
      } else {
        response.writeHead(200, head)
        writeAll(response, tokens(n), block)
      }
    }
    return { port: await listen(serve), ...fan }
  },

  async 'fastify + reply.raw' () {
    const { join, ...fan } = fanOut()
    return await fastify(async app => {
      app.get('/fan', (request, reply) => {
        reply.hijack()
        reply.raw.writeHead(200, eventHead)
        join(reply.raw)
      })
      const stream = (path, source, encode) => app.get(path, (request, reply) => {
        reply.hijack()
        reply.raw.writeHead(200, eventHead)
        writeAll(reply.raw, source(Number(request.query.n)), encode)
      })
      stream('/async', tokens, block)
      stream('/short', tokens, block)
      stream('/sync', syncTokens, block)
      stream('/chunks', chunks, chunk => chunk)
    }, fan)
  },

  async 'reply.send(Readable)' () {
    const readables = new Set()
    return await fastify(async app => {
      app.get('/fan', (request, reply) => {
        const readable = new Readable({ read () {} })
        readable.push(':\n\n')
        readables.add(readable)
        reply.raw.on('close', () => readables.delete(readable))
        return reply.type('text/event-stream').send(readable)
      })
      const blocks = source => Readable.from((async function * () { for await (const item of source) yield block(item) })(), { objectMode: false })
      app.get('/async', (request, reply) => reply.type('text/event-stream').send(blocks(tokens(Number(request.query.n)))))
      app.get('/short', (request, reply) => reply.type('text/event-stream').send(blocks(tokens(Number(request.query.n)))))
      app.get('/sync', (request, reply) => reply.type('text/event-stream').send(blocks(syncTokens(Number(request.query.n)))))
      app.get('/chunks', (request, reply) => reply.send(Readable.from(chunks(Number(request.query.n)), { objectMode: false })))
    }, {
      publish (n, text = data) {
        const block = `event: tick\nid: ${idOf(n)}\ndata: ${text}\n\n`
        for (const readable of readables) readable.push(block)
      },
      size: () => readables.size
    })
  },

  async 'fastify-streaming' () {
    const { default: streaming } = await import('fastify-streaming')
    let channel
    return await fastify(async app => {
      await app.register(streaming, { heartbeat })
      channel = app.streaming.channel('bench')
      app.get('/fan', (request, reply) => reply.sse(channel))
      app.get('/async', (request, reply) => reply.sse(tokens(Number(request.query.n))))
      app.get('/short', (request, reply) => reply.sse(tokens(Number(request.query.n))))
      app.get('/sync', (request, reply) => reply.sse(syncTokens(Number(request.query.n))))
      app.get('/chunks', (request, reply) => reply.streamWriter(chunks(Number(request.query.n))))
    }, {
      publish (n, text = data) { channel.publish({ event: 'tick', data: text }) },
      size: () => channel.size
    })
  },

  async '@fastify/sse' () {
    const { default: plugin } = await import('@fastify/sse')
    const replies = new Set()
    return await fastify(async app => {
      await app.register(plugin, { heartbeatInterval: heartbeat })
      app.get('/fan', { sse: 'only' }, async (request, reply) => {
        reply.sse.keepAlive()
        await reply.sse.send({ data: 'hello' })
        replies.add(reply)
        reply.raw.on('close', () => replies.delete(reply))
      })
      const stream = async (request, reply) => { await reply.sse.send(tokens(Number(request.query.n))) }
      app.get('/async', { sse: 'only' }, stream)
      app.get('/short', { sse: 'only' }, stream)
    }, {
      publish (n, text = data) { for (const reply of replies) reply.sse.send({ event: 'tick', id: idOf(n), data: text }) },
      size: () => replies.size
    })
  },

  async 'fastify-sse-v2' () {
    const { FastifySSEPlugin } = await import('fastify-sse-v2')
    const replies = new Set()
    return await fastify(async app => {
      await app.register(FastifySSEPlugin)
      app.get('/fan', (request, reply) => {
        reply.sse({ data: 'hello' })
        replies.add(reply)
        reply.raw.on('close', () => replies.delete(reply))
      })
      app.get('/async', (request, reply) => { reply.sse(tokens(Number(request.query.n))) })
      app.get('/short', (request, reply) => { reply.sse(tokens(Number(request.query.n))) })
    }, {
      publish (n, text = data) { for (const reply of replies) reply.sse({ event: 'tick', id: idOf(n), data: text }) },
      size: () => replies.size
    })
  },

  async 'better-sse' () {
    const { createChannel, createSession } = await import('better-sse')
    const channel = createChannel()
    const serializer = text => text
    return await fastify(async app => {
      app.get('/fan', async (request, reply) => {
        reply.hijack()
        const session = await createSession(request.raw, reply.raw, { serializer, keepAlive: heartbeat })
        session.push('hello')
        channel.register(session)
      })
      const stream = async (request, reply) => {
        reply.hijack()
        const session = await createSession(request.raw, reply.raw, { serializer })
        for await (const { data } of tokens(Number(request.query.n))) session.push(data)
        reply.raw.end()
      }
      app.get('/async', stream)
      app.get('/short', stream)
    }, {
      publish (n, text = data) { channel.broadcast(text, 'tick', { eventId: idOf(n) }) },
      size: () => channel.sessionCount
    })
  },

  async hono () {
    const { Hono } = await import('hono')
    const { streamSSE } = await import('hono/streaming')
    const { serve } = await import('@hono/node-server')
    const app = new Hono()
    const streams = new Set()
    app.get('/fan', c => streamSSE(c, async stream => {
      await stream.writeSSE({ data: 'hello' })
      streams.add(stream)
      await new Promise(resolve => stream.onAbort(resolve))
      streams.delete(stream)
    }))
    const stream = c => streamSSE(c, async stream => {
      for await (const event of tokens(Number(c.req.query('n')))) await stream.writeSSE(event)
    })
    app.get('/async', stream)
    app.get('/short', stream)
    const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1', ...isHttp2 && { createServer: http2.createServer } })
    await once(server, 'listening')
    return {
      port: server.address().port,
      publish (n, text = data) { for (const stream of streams) stream.writeSSE({ event: 'tick', id: idOf(n), data: text }) },
      size: () => streams.size
    }
  },

  async h3 () {
    const { H3, createEventStream, getQuery, toNodeHandler } = await import('h3')
    const app = new H3()
    const streams = new Set()
    app.get('/fan', event => {
      const stream = createEventStream(event)
      stream.push('hello')
      streams.add(stream)
      stream.onClosed(() => streams.delete(stream))
      return stream.send()
    })
    const stream = event => {
      const stream = createEventStream(event)
      const push = async () => {
        for await (const item of tokens(Number(getQuery(event).n))) await stream.push(item)
        await stream.close()
      }
      push()
      return stream.send()
    }
    app.get('/async', stream)
    app.get('/short', stream)
    return {
      port: await listen(toNodeHandler(app)),
      publish (n, text = data) { for (const stream of streams) stream.push({ event: 'tick', id: idOf(n), data: text }) },
      size: () => streams.size
    }
  }
}

/** A server without a framework; resolves with its port. */
async function listen (serve) {
  const server = isHttp2 ? http2.createServer(serve) : http.createServer(serve)
  server.listen(0, '127.0.0.1', 8192)
  await once(server, 'listening')
  return server.address().port
}

async function fastify (routes, fan) {
  const { default: Fastify } = await import('fastify')
  const app = Fastify({ http2: isHttp2 })
  await routes(app)
  await app.listen({ port: 0, host: '127.0.0.1', backlog: 8192 })
  return { port: app.server.address().port, ...fan }
}

const { port, publish, size } = await libraries[library]()

// A client that has all of a round says so here.
let onAcknowledged = () => {}
const acknowledged = net.createServer(socket => socket.on('data', bytes => { for (let i = 0; i < bytes.length; i++) onAcknowledged() }).on('error', () => {}))
acknowledged.listen(0, '127.0.0.1')
await once(acknowledged, 'listening')

const turn = () => new Promise(resolve => setImmediate(resolve))
let published = 0

const commands = {
  /** Publishes `burst` events in each of so many turns of the loop. */
  async turns ({ turns, burst = 1 }) {
    for (let i = 0; i < turns; i++) {
      for (let k = 0; k < burst; k++) publish(published++)
      await turn()
    }
  },
  /** Publishes an event whenever all have got the one before. */
  async rounds ({ rounds }) {
    for (let i = 0; i < rounds; i++) {
      const all = new Promise(resolve => { onAcknowledged = resolve })
      publish(published++)
      await all
    }
  },
  /** Publishes an event with the time of day every so many milliseconds. */
  async beat ({ events, every }) {
    for (let i = 0; i < events; i++) {
      publish(published++, `t=${process.hrtime.bigint()} `.padEnd(100, 'x'))
      await new Promise(resolve => setTimeout(resolve, every))
    }
  },
  async measure () {
    for (let i = 0; i < 6; i++) {
      global.gc?.()
      await new Promise(resolve => setTimeout(resolve, 50))
    }
    return process.memoryUsage()
  },
  /** Microseconds since the start. */
  async cpu () {
    const { user, system } = process.cpuUsage()
    return user + system
  },
  async size () { return size() }
}

process.on('message', async ({ id, command, ...options }) => {
  const before = process.cpuUsage()
  const answer = await commands[command](options)
  const { user, system } = process.cpuUsage(before)
  process.send({ id, answer, cpu: user + system })
})
process.on('disconnect', () => process.exit())
process.send({ id: 'ready', answer: { port, acknowledgePort: acknowledged.address().port } })
