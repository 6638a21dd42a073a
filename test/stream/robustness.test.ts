import '../fixtures/guard.ts'
import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { runInNewContext } from 'node:vm'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import streaming, { type EventStream, type StreamingOptions, type StreamOutcome, type StreamWriter } from '../../lib/index.ts'
import { eventually, fakeClock } from '../fixtures/clock.ts'
import { connect, fetchRaw, open, requestText } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'

t.test('a sync generator that ends its own stream is released, once', async t => {
  let released = 0
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(stream => (function * () {
    try {
      yield 'a'
      stream.close()
      yield 'b'
    } finally {
      released++
    }
  })()))
  t.equal((await fetchRaw(t, port)).body, 'data: a\n\n')
  t.match(await outcome(), { reason: 'closed', events: 1 })
  t.equal(released, 1)
})

t.test('a source that a refused promise would have given is released when it comes', async t => {
  let released = 0
  const iterator = { next: async () => ({ done: true as const, value: undefined }), async return () { released++; return { done: true as const, value: undefined } } }
  const source = Promise.resolve({ [Symbol.asyncIterator]: () => iterator })
  const { port } = await serve(t, (request, reply) => reply.sse(source as never))
  t.match((await fetchRaw(t, port)).body, /FST_STREAM_INVALID_SOURCE.*\[object Promise\]/)
  t.equal(released, 1)
})

t.test('a hook that destroys the payload gets the error reply of Fastify', async t => {
  for (const error of [undefined, new Error('by the hook')]) {
    const { port, outcome } = await serve(t, () => {}, {}, app => {
      app.get('/destroyed', {
        onSend: async (request, reply, payload) => {
          if (typeof payload === 'object' && payload !== null) (payload as import('node:stream').Readable).destroy(error).on('error', () => {})
          return payload
        }
      }, (request, reply) => reply.sse(['a']))
    })
    t.match((await fetchRaw(t, port, { path: '/destroyed' })).head, /^HTTP\/1.1 500 /)
    t.match(await outcome(), { reason: 'failed', bytes: 0 })
  }
})

t.test('a send() that somebody else has put on the reply is used, and put back', async t => {
  const sent: unknown[] = []
  let tracedReply!: FastifyReply
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(['a']), {}, app => {
    app.addHook('onRequest', async (request, reply) => {
      tracedReply = reply
      const { send } = reply
      reply.send = function (this: FastifyReply, ...args: unknown[]) {
        sent.push(args[0] instanceof Error ? args[0].message : 'a payload')
        return send.apply(this, args as [unknown])
      } as never
    })
    app.get('/fails', (request, reply) => reply.sse([Symbol.iterator] as never))
  })
  t.equal((await fetchRaw(t, port)).body, 'data: a\n\n')
  await outcome()
  t.strictSame(sent, ['a payload'])
  t.ok(Object.hasOwn(tracedReply, 'send'))
  t.match((await fetchRaw(t, port, { path: '/fails' })).head, /^HTTP\/1.1 500 /)
  t.match(sent[1], /^An event must be/)
})

t.test('a second stream that nobody catches leaves the first one alone', async t => {
  for (const handler of [
    (reply: FastifyReply) => { void reply.sse(['first']); return reply.sse(['second']) },
    async (reply: FastifyReply) => { void reply.sse(['first']); return await reply.sse(['second']) },
    (reply: FastifyReply) => {
      void reply.sse(async function * () { await new Promise(resolve => setImmediate(resolve)); yield 'first' }())
      return reply.sse(['second'])
    }
  ]) {
    const { port, outcome, logs } = await serve(t, (request, reply) => handler(reply))
    t.equal((await fetchRaw(t, port)).body, 'data: first\n\n')
    t.match(await outcome(), { reason: 'completed' })
    // By us, or by Fastify when the first stream has ended by then.
    t.equal(logs.filter(({ err }) => err?.code === 'FST_STREAM_ALREADY_STREAMING').length, 1)
  }
})

t.test('twenty pipelined streams cause no warning', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(async function * () {
    await new Promise(resolve => setImmediate(resolve))
    yield 'a'
  }()))
  const client = connect(t, port)
  client.write(requestText({ headers: ['Connection: keep-alive'] }).repeat(19) + requestText())
  t.equal((await client.end()).split('data: a\n\n').length - 1, 20)
  t.match(await outcome(19), { reason: 'completed' })
})

t.test('an error whose properties throw is told as a failed source', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(async function * () {
    yield 'a'
    await new Promise(resolve => setImmediate(resolve))
    throw Object.defineProperty(new Error('x'), 'statusCode', { get () { throw new Error('getter') } })
  }()))
  t.equal((await fetchRaw(t, port)).body, 'data: a\n\nevent: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
  t.match(await outcome(), { reason: 'failed' })
})

t.test('a content-length of the handler is not the length of an event stream', async t => {
  const { port } = await serve(t, (request, reply) => reply.header('content-length', 3).sse(async function * () {
    yield 'longer'
    await new Promise(resolve => setImmediate(resolve))
  }()))
  const { head, body } = await fetchRaw(t, port)
  t.notMatch(head, /content-length/i)
  t.equal(body, 'data: longer\n\n')
})

t.test('error messages tell what a value is, not what is in it', async t => {
  class User { password = 'SECRET' }
  for (const start of [
    (reply: FastifyReply) => reply.sse(new User() as never),
    (reply: FastifyReply) => reply.sse('SECRET' as never),
    (reply: FastifyReply) => reply.sse({ data: 'SECRET' } as never),
    (reply: FastifyReply) => reply.sse([{ id: new User() }] as never),
    (reply: FastifyReply) => reply.sse([{ id: 'SECRET\n' }]),
    (reply: FastifyReply) => reply.sse(['SECRET \ud800']),
    (reply: FastifyReply) => reply.sse([{ data: 'x', retry: new User() }] as never),
    (reply: FastifyReply) => reply.streamWriter('SECRET' as never),
    (reply: FastifyReply) => reply.streamWriter(['SECRET \ud800']),
    (reply: FastifyReply) => reply.streamWriter(() => new User() as never)
  ]) {
    const { port } = await serve(t, (request, reply) => start(reply))
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 500 /)
    t.notMatch(body, /SECRET/)
  }
})

t.test('a client that left while hooks ran over an error leaves no trace but the outcome', async t => {
  let running!: () => void
  const hookRuns = new Promise<void>(resolve => { running = resolve })
  let release!: () => void
  const held = new Promise<void>(resolve => { release = resolve })
  const server = await serve(t, (request, reply) => reply.sse(async stream => {
    void stream.send('a')
    throw new Error('boom')
  }), {
    before: app => app.addHook('onSend', async () => {
      running()
      await held
    })
  })
  const client = open(t, server.port)
  await hookRuns
  client.destroy()
  t.match(await server.outcome(), { reason: 'failed', events: 0, bytes: 0 })
  release()
  await new Promise(resolve => setImmediate(resolve))
  t.equal(server.app.streaming.stats().closed.failed, 0)
  t.strictSame(server.logs.filter(({ level }) => level > 30), [])
})

t.test('events that were accepted count, also when the client leaves before the head', async t => {
  let sent!: () => void
  const bothSent = new Promise<void>(resolve => { sent = resolve })
  const { port, outcome } = await serve(t, (request, reply) => reply.sse((stream: EventStream) => {
    void stream.send('a')
    void stream.send('b')
    sent()
  }), { before: app => app.addHook('onSend', async () => await new Promise<void>(resolve => setTimeout(resolve, 50))) })
  const client = open(t, port)
  await bothSent
  client.destroy()
  t.match(await outcome(), { reason: 'disconnected', events: 2, bytes: 0 })
})

t.test('a hundred thousand single bytes that nobody waits for arrive whole', async t => {
  const { port } = await serve(t, (request, reply) => reply.streamWriter((writer: StreamWriter) => {
    for (let i = 0; i < 100_000; i++) void writer.write(Buffer.from([97 + i % 26]))
    return false
  }))
  const { body, isWhole } = await fetchRaw(t, port)
  t.ok(isWhole)
  t.equal(body, 'abcdefghijklmnopqrstuvwxyz'.repeat(3847).slice(0, 100_000))
})

t.test('an HTTP/2 client', async t => {
  async function connected (t: Test, setup: (app: FastifyInstance) => void, options: StreamingOptions, initialWindowSize: number) {
    const app = Fastify({ http2: true }) as unknown as FastifyInstance
    const outcomes: StreamOutcome[] = []
    await app.register(streaming, { ...options, onClose: outcome => { outcomes.push(outcome) } })
    setup(app)
    await app.listen({ port: 0, host: '127.0.0.1' })
    t.teardown(() => app.close())
    const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`, { settings: { initialWindowSize } })
    t.teardown(() => { session.destroy() })
    await once(session, 'localSettings')
    return { session, outcomes, clock: fakeClock(t) }
  }

  t.test('that takes a little at a time is not cut', async t => {
    const { session, clock } = await connected(t, app => {
      app.get('/', (request, reply) => reply.streamWriter(['x'.repeat(60_000)]))
    }, { writeTimeout: 400 }, 4096)
    const stream = session.request({ ':path': '/' })
    let received = 0
    for await (const chunk of stream) {
      received += (chunk as Buffer).length
      // 240 ms a slice of 16 KiB, however the network cuts it.
      clock.tick((chunk as Buffer).length * 240 / 16_384)
    }
    t.equal(received, 60_000)
  })

  for (const [how, code] of [['without an error', http2.constants.NGHTTP2_NO_ERROR], ['with CANCEL', http2.constants.NGHTTP2_CANCEL]] as const) {
    t.test(`that resets its stream ${how} has left`, async t => {
      let released = false
      const { session, outcomes } = await connected(t, app => {
        app.get('/', (request, reply) => reply.sse((stream, signal) => (async function * () {
          try {
            yield 'a'
            await once(signal, 'abort')
          } finally {
            released = true
          }
        })()))
      }, {}, 65_535)
      const stream = session.request({ ':path': '/' })
      stream.on('error', () => {})
      await once(stream, 'data')
      stream.close(code)
      await eventually(() => outcomes.length > 0)
      t.match(outcomes, [{ reason: 'disconnected' }])
      await eventually(() => released)
    })
  }

  t.test('that resets its stream without an error while bytes wait has left', async t => {
    const { session, outcomes } = await connected(t, app => {
      app.get('/', (request, reply) => reply.streamWriter(['x'.repeat(60_000)]))
    }, {}, 0)
    const stream = session.request({ ':path': '/' })
    await once(stream, 'response')
    stream.close(http2.constants.NGHTTP2_NO_ERROR)
    await eventually(() => outcomes.length > 0)
    t.match(outcomes, [{ reason: 'disconnected' }])
  })

  t.test('that resets without an error what Fastify sends in place of a stream is noticed after writeTimeout at the latest', async t => {
    let settled: StreamOutcome | undefined
    const { session, clock } = await connected(t, app => {
      app.addHook('onSend', async () => 'something else')
      app.get('/', async (request, reply) => { settled = await reply.sse(['a']) })
    }, { writeTimeout: 1000 }, 0)
    const stream = session.request({ ':path': '/' })
    await once(stream, 'response')
    stream.close(http2.constants.NGHTTP2_NO_ERROR)
    await once(stream, 'close')
    await new Promise(resolve => session.ping(resolve))
    // Node.js tells of it from 26 on.
    clock.tick(1000)
    await eventually(() => settled !== undefined)
    t.match(settled, { reason: 'closed', bytes: 0 })
  })

  t.test('that is still sending its request when the reply is whole gets a completed one', async t => {
    const { session, outcomes } = await connected(t, app => {
      app.addContentTypeParser('text/x', (request, payload, done) => { done(null) })
      app.post('/', (request, reply) => {
        request.raw.once('data', () => {})
        return reply.streamWriter(['answer'])
      })
    }, {}, 65_535)
    const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'text/x' })
    stream.write('part')
    let text = ''
    for await (const chunk of stream.setEncoding('utf8')) text += chunk
    t.equal(text, 'answer')
    await eventually(() => outcomes.length > 0)
    t.match(outcomes, [{ reason: 'completed' }])
  })

  t.test('that takes nothing of one stream is cut, whatever it takes of another', async t => {
    let busy: EventStream | undefined
    const { session, outcomes, clock } = await connected(t, app => {
      app.get('/stalled', (request, reply) => reply.streamWriter(['x'.repeat(100_000)]))
      app.get('/busy', async (request, reply) => { busy = await reply.sse() })
    }, { writeTimeout: 1000, heartbeat: 0 }, 16_384)
    const stalled = session.request({ ':path': '/stalled' })
    stalled.on('error', () => {})
    await once(stalled, 'response')
    const reading = session.request({ ':path': '/busy' }).setEncoding('utf8')
    let text = ''
    reading.on('data', chunk => { text += chunk })
    await eventually(() => busy !== undefined)
    for (let i = 0; i < 10; i++) {
      clock.tick(100)
      void busy?.send('x'.repeat(1000))
      await eventually(() => text.split('\n\n').length > i + 1)
    }
    await eventually(() => outcomes.length > 0)
    t.match(outcomes, [{ reason: 'stalled' }])
    t.equal(busy?.isOpen, true)
  })
})

t.test('a client that has reset its connection is not taken for a wrong clientKey', async t => {
  const { port, outcome, logs } = await serve(t, (request, reply) => {
    Object.defineProperty(request, 'ip', { value: undefined })
    return reply.sse(['a'])
  }, { streaming: { maxStreamsPerClient: 1 } })
  await fetchRaw(t, port)
  t.match(await outcome(), { reason: 'completed' })
  t.strictSame(logs.filter(({ level }) => level > 30), [])
})

t.test('the longest heartbeat overflows no timer', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(async function * () { yield 'a' }()), { streaming: { heartbeat: 2 ** 31 - 1 } })
  t.equal((await fetchRaw(t, port)).body, 'data: a\n\n')
})

t.test('what ends the stream while it is serialized is not sent, and does not count', async t => {
  const lastWords = (end: () => void) => ({ toJSON () { end(); return 'last words' } })
  const sent: Array<Promise<boolean>> = []
  for (const handler of [
    (reply: FastifyReply) => reply.sse(stream => { sent.push(stream.send({ data: lastWords(() => stream.close()) })) }),
    (reply: FastifyReply) => reply.sse(async stream => {
      await stream.send({ comment: 'open' })
      sent.push(stream.send({ data: lastWords(() => stream.close()) }))
    }),
    (reply: FastifyReply) => reply.sse(stream => [{ data: lastWords(() => stream.close()) }]),
    (reply: FastifyReply) => reply.streamWriter(writer => { sent.push(writer.json(lastWords(() => { void writer.end('the end') }))) })
  ]) {
    const { port, outcome } = await serve(t, (request, reply) => handler(reply))
    t.notMatch((await fetchRaw(t, port)).body, /last words/)
    t.match(await outcome(), { events: 0 })
  }
  t.strictSame(await Promise.all(sent), [false, false, false])
})

t.test('the head waits for a byte, not for an empty chunk', async t => {
  class NotFound extends Error { statusCode = 404 }
  for (const handler of [
    (reply: FastifyReply) => reply.streamWriter(async writer => {
      await writer.write('')
      await writer.write(new Uint8Array(0))
      throw new NotFound()
    }),
    (reply: FastifyReply) => reply.streamWriter(async function * () {
      yield ''
      throw new NotFound()
    })
  ]) {
    const { port } = await serve(t, (request, reply) => handler(reply))
    t.match((await fetchRaw(t, port)).head, /^HTTP\/1.1 404 /)
  }
  const { port } = await serve(t, (request, reply) => reply.streamWriter(writer => {
    void writer.write('')
    void writer.json({ a: 1 })
    return false
  }))
  t.match((await fetchRaw(t, port)).head, /\r\ncontent-type: application\/x-ndjson\r\n/)
})

t.test('what is thrown need not be an Error of this realm', async t => {
  for (const thrown of [{ statusCode: 404, message: 'no row' }, runInNewContext("Object.assign(new Error('no row'), { statusCode: 404 })")]) {
    const seen: unknown[] = []
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(async function * () { throw thrown }()), {}, app => {
      app.setErrorHandler((error, request, reply) => {
        seen.push(error)
        return reply.code((error as { statusCode: number }).statusCode).send({ message: (error as Error).message })
      })
    })
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 404 /)
    t.equal(body, '{"message":"no row"}')
    t.equal(seen[0], thrown)
    t.match(await outcome(), { reason: 'failed', error: thrown })
  }
})

t.test('a promise where a value was expected cannot kill the process', async t => {
  const rejecting = (): never => Promise.reject(new Error('async')) as never
  for (const [options, code] of [
    [{ serialize: rejecting }, 'FST_STREAM_INVALID_EVENT'],
    [{ maxStreamsPerClient: 1, clientKey: rejecting }, 'FST_STREAM_INVALID_OPTION']
  ] as const) {
    const { port } = await serve(t, (request, reply) => reply.sse([{ data: {} }]), { streaming: options })
    t.match(JSON.parse((await fetchRaw(t, port)).body), { code })
  }
  const { port, outcome } = await serve(t, (request, reply) => reply.streamWriter(async writer => { await writer.json({}) }), { streaming: { serialize: rejecting } })
  t.match(JSON.parse((await fetchRaw(t, port)).body), { code: 'FST_STREAM_INVALID_CHUNK' })
  t.match(await outcome(), { reason: 'failed' })
})

t.test('a callback that returns the reply is refused', async t => {
  const { port } = await serve(t, (request, reply) => reply.streamWriter((() => reply) as never))
  t.match(JSON.parse((await fetchRaw(t, port)).body), { code: 'FST_STREAM_INVALID_SOURCE' })
})

t.test('a function whose result throws when it is looked at fails the stream', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(() => ({ get then () { throw new Error('getter') } }) as never))
  t.match(JSON.parse((await fetchRaw(t, port)).body), { message: 'getter' })
})

t.test('flush() resolves true when the body has completed', async t => {
  const flushed: Array<Promise<boolean>> = []
  const { port, outcome } = await serve(t, (request, reply) => reply.streamWriter(writer => {
    void writer.write('a')
    flushed.push(writer.flush())
    return false
  }))
  t.equal((await fetchRaw(t, port)).body, 'a')
  t.match(await outcome(), { reason: 'completed' })
  t.strictSame(await Promise.all(flushed), [true])
})

t.test('a stream whose destroy() throws is let go', async t => {
  const readable = new Readable({ read () {} })
  const { port, outcome } = await serve(t, (request, reply) => {
    readable.destroy = () => { throw new Error('destroy') }
    return reply.sse(readable)
  })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.destroy()
  t.match(await outcome(), { reason: 'disconnected' })
})

t.test('a stream that emits an error after its end harms nobody', async t => {
  const readable = new Readable({ autoDestroy: false, read () { this.push(null) } })
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(readable))
  await fetchRaw(t, port)
  t.match(await outcome(), { reason: 'completed' })
  readable.emit('error', new Error('late'))
})

t.test('an error after stream.close() is logged', async t => {
  const { port, outcome, logged } = await serve(t, (request, reply) => reply.sse(async stream => {
    stream.close()
    throw new Error('late')
  }))
  await fetchRaw(t, port)
  t.match(await outcome(), { reason: 'closed' })
  t.match(await logged('the source failed after its stream had ended'), { err: { message: 'late' } })
})
