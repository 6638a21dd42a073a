import './fixtures/guard.ts'
import diagnosticsChannel from 'node:diagnostics_channel'
import Fastify from 'fastify'
import t from 'tap'
import { turn } from './fixtures/clock.ts'
import { fetchRaw, open, type RawClient } from './fixtures/raw.ts'
import { serve, type ServeOptions, type TestServer } from './fixtures/server.ts'
import streaming, { type EventStream, type StreamingOptions } from '../lib/index.ts'

type Test = Parameters<typeof serve>[0]

/** A source that counts how often it was asked and released. */
function countedSource () {
  return {
    asked: 0,
    returned: 0,
    [Symbol.asyncIterator] () { return this },
    next () { this.asked++; return new Promise<never>(() => {}) },
    async return () { this.returned++; return { done: true as const, value: undefined } }
  }
}

/** A server with limits: `/` is an open event stream, `/writer` an open body, `/source` reads `source`. */
async function limited (t: Test, options: StreamingOptions, serveOptions: ServeOptions = {}, setup?: Parameters<typeof serve>[3]) {
  const source = countedSource()
  const server = await serve(t, (request, reply) => reply.sse(() => {}), { ...serveOptions, streaming: options }, async app => {
    app.get('/writer', (request, reply) => reply.streamWriter(async writer => {
      await writer.write('begun\n')
      await writer.closed
    }))
    app.get('/source', (request, reply) => reply.sse(source))
    app.get('/bare', async (request, reply) => {
      const stream = await reply.sse()
      reply.log.info({ isOpen: stream.isOpen, outcome: await stream.closed }, 'bare')
    })
    await setup?.(app)
  })
  /** Opens a stream; resolves when its client has the head. */
  const occupy = async (path = '/', headers: string[] = []): Promise<RawClient> => {
    const client = open(t, server.port, { path, headers })
    t.match(await client.until('\r\n\r\n'), /^HTTP\/1\.1 200 /)
    return client
  }
  return { ...server, source, occupy }
}

/** The JSON body of an error reply. */
async function refused (t: Test, port: number, path = '/', headers: string[] = []): Promise<{ status: number, retryAfter: string | undefined, body: Record<string, unknown> }> {
  const { head, body } = await fetchRaw(t, port, { path, headers })
  return {
    status: Number(/^HTTP\/1\.1 (\d+) /.exec(head)?.[1]),
    retryAfter: /\r\nretry-after: (.+)/i.exec(head)?.[1],
    body: JSON.parse(body)
  }
}

/** Leaves, and waits until the server knows. */
async function leave (client: RawClient, { outcome, outcomes }: TestServer): Promise<void> {
  const count = outcomes.length
  client.destroy()
  await outcome(count)
}

t.test('maxStreams', async t => {
  t.test('refuses the next stream with 503 and Retry-After, code FST_STREAM_LIMIT', async t => {
    const { port, occupy, app } = await limited(t, { maxStreams: 2 })
    await occupy()
    await occupy('/writer')
    for (const path of ['/', '/writer', '/bare']) {
      const { status, retryAfter, body } = await refused(t, port, path)
      t.equal(status, 503)
      t.match(retryAfter, /^[1-5]$/)
      t.same(body, { statusCode: 503, code: 'FST_STREAM_LIMIT', error: 'Service Unavailable', message: 'Too many streams: maxStreams is 2' })
    }
    t.equal(app.streaming.open, 2)
  })

  t.test('Retry-After is a random time of shutdown.retry, in whole seconds, rounded up', async t => {
    for (const [retry, random, expected] of [[[1000, 5000], 0, '1'], [[1000, 5000], 1 - Number.EPSILON, '5'], [1001, 0, '2'], [0, 0, '0']] as const) {
      const { port, occupy } = await limited(t, { maxStreams: 1, shutdown: { retry: retry as never } })
      await occupy()
      const captured = t.capture(Math, 'random', () => random)
      t.equal((await refused(t, port)).retryAfter, expected)
      captured.restore()
    }
  })

  t.test('goes through setErrorHandler, as any error before the head', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1 }, {}, app => {
      app.setErrorHandler((error: Error & { code?: string }, request, reply) => reply.code(418).send({ mine: error.code }))
    })
    await occupy()
    const { status, retryAfter, body } = await refused(t, port)
    t.equal(status, 418)
    t.match(retryAfter, /^[1-5]$/)
    t.same(body, { mine: 'FST_STREAM_LIMIT' })
  })

  t.test('is free again when a stream has closed', async t => {
    const server = await limited(t, { maxStreams: 1 })
    await leave(await server.occupy(), server)
    await leave(await server.occupy('/writer'), server)
    await server.occupy()
    t.equal((await refused(t, server.port)).status, 503)
  })

  t.test('is per registration', async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    for (const prefix of ['/a', '/b']) {
      await app.register(async scope => {
        await scope.register(streaming, { maxStreams: 1 })
        scope.get('/', (request, reply) => reply.sse(() => {}))
      }, { prefix })
    }
    const statuses: number[] = []
    for (const url of ['/a/', '/a/', '/b/', '/b/']) statuses.push((await app.inject({ url, payloadAsStream: true })).statusCode)
    t.same(statuses, [200, 503, 200, 503])
  })
})

t.test('counts from the call until the response has closed:', async t => {
  t.test('a stream that has no head yet', async t => {
    const { port } = await limited(t, { maxStreams: 1 }, {}, app => {
      app.get('/later', (request, reply) => { called(); return reply.sse(() => {}, { commitAfter: Infinity }) })
    })
    let called!: () => void
    const call = new Promise<void>(_resolve => { called = _resolve })
    const client = open(t, port, { path: '/later' })
    await call
    t.equal((await refused(t, port)).status, 503)
    t.equal(client.received, '')
  })

  t.test('a body that has ended, until its last byte is with the system', async t => {
    let stream!: EventStream
    const { app, port, outcome } = await limited(t, { maxStreams: 1 }, {}, app => {
      app.get('/big', async (request, reply) => { stream = await reply.sse() })
    })
    const client = open(t, port, { path: '/big' })
    await client.until('\r\n\r\n')
    client.socket.pause()
    void stream.send('x'.repeat(20 << 20))
    stream.close()
    await turn(10)
    t.equal((await refused(t, port)).status, 503)
    t.equal(app.streaming.open, 1)
    client.socket.resume()
    t.match(await outcome(1), { reason: 'closed' })
    t.match((await fetchRaw(t, port, { method: 'HEAD' })).head, / 200 /)
  })

  t.test('an error before the head, until its reply has been sent', async t => {
    let answer!: () => void
    const answered = new Promise<void>(_resolve => { answer = _resolve })
    let failing!: () => void
    const failed = new Promise<void>(_resolve => { failing = _resolve })
    const server = await limited(t, { maxStreams: 1 }, {}, app => {
      app.get('/wrong', {
        errorHandler: async (error, request, reply) => {
          failing()
          await answered
          return reply.code(500).send({ message: error.message })
        }
      }, (request, reply) => reply.sse(42 as never))
    })
    const client = open(t, server.port, { path: '/wrong' })
    await failed
    t.equal((await refused(t, server.port)).status, 503)
    answer()
    t.match(await client.end(), /^HTTP\/1\.1 500 /)
    await server.outcome(1)
    await server.occupy()
  })

  t.test('HEAD requests not at all, even over the limit', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1 })
    await occupy()
    t.match((await fetchRaw(t, port, { method: 'HEAD' })).head, /^HTTP\/1\.1 200 /)
    t.match((await fetchRaw(t, port, { method: 'HEAD', path: '/writer' })).head, /^HTTP\/1\.1 200 /)
  })

  t.test('a refused stream not at all', async t => {
    const server = await limited(t, { maxStreams: 1, maxStreamsPerClient: 1 })
    const first = await server.occupy()
    for (let i = 0; i < 5; i++) t.equal((await refused(t, server.port)).status, 503)
    await leave(first, server)
    await server.occupy()
  })
})

t.test('maxStreamsPerClient', async t => {
  t.test('refuses the next stream of one client with 429 and Retry-After, code FST_STREAM_LIMIT', async t => {
    const { port, occupy } = await limited(t, { maxStreamsPerClient: 2 })
    await occupy()
    await occupy('/writer')
    for (const path of ['/', '/writer']) {
      const { status, retryAfter, body } = await refused(t, port, path)
      t.equal(status, 429)
      t.match(retryAfter, /^[1-5]$/)
      t.same(body, { statusCode: 429, code: 'FST_STREAM_LIMIT', error: 'Too Many Requests', message: 'Too many streams: maxStreamsPerClient is 2' })
    }
  })

  t.test('tells clients apart by request.ip, which trustProxy moves', async t => {
    const { port, occupy } = await limited(t, { maxStreamsPerClient: 1 }, { fastify: { trustProxy: true } })
    await occupy('/', ['X-Forwarded-For: 192.0.2.1'])
    await occupy('/', ['X-Forwarded-For: 192.0.2.2'])
    t.equal((await refused(t, port, '/', ['X-Forwarded-For: 192.0.2.1'])).status, 429)
    t.equal((await refused(t, port, '/', ['X-Forwarded-For: 192.0.2.2'])).status, 429)
    await occupy('/', ['X-Forwarded-For: 192.0.2.3'])
  })

  t.test('does not believe X-Forwarded-For without trustProxy', async t => {
    const { port, occupy } = await limited(t, { maxStreamsPerClient: 1 })
    await occupy('/', ['X-Forwarded-For: 192.0.2.1'])
    t.equal((await refused(t, port, '/', ['X-Forwarded-For: 192.0.2.2'])).status, 429)
  })

  t.test('tells clients apart by clientKey(request)', async t => {
    const { port, occupy } = await limited(t, { maxStreamsPerClient: 1, clientKey: request => String(request.headers['x-user']) })
    await occupy('/', ['X-User: ada'])
    await occupy('/', ['X-User: bob'])
    t.equal((await refused(t, port, '/', ['X-User: ada'])).status, 429)
    await occupy('/', ['X-User: '])
    t.equal((await refused(t, port, '/', ['X-User: '])).status, 429, "'' is a key like any other")
  })

  t.test('clientKey is asked once a stream, and never without the limit', async t => {
    let calls = 0
    const clientKey = () => { calls++; return 'one' }
    const { occupy } = await limited(t, { maxStreamsPerClient: 5, clientKey })
    await occupy()
    await occupy()
    t.equal(calls, 2)
    const { occupy: occupyMore } = await limited(t, { clientKey })
    await occupyMore()
    t.equal(calls, 2)
  })

  t.test('is free again, for that client, when one of its streams has closed', async t => {
    const server = await limited(t, { maxStreamsPerClient: 2, clientKey: request => String(request.headers['x-user']) })
    const [first] = [await server.occupy('/', ['X-User: ada']), await server.occupy('/', ['X-User: ada'])]
    await leave(first, server)
    const again = await server.occupy('/', ['X-User: ada'])
    t.equal((await refused(t, server.port, '/', ['X-User: ada'])).status, 429)
    await leave(again, server)
    await server.occupy('/', ['X-User: ada'])
  })

  t.test('is free again when the last of its streams has closed', async t => {
    const server = await limited(t, { maxStreamsPerClient: 1 })
    await leave(await server.occupy(), server)
    await leave(await server.occupy('/writer'), server)
    await server.occupy()
    t.equal((await refused(t, server.port)).status, 429)
  })

  t.test('a clientKey that throws makes an ordinary error reply, and releases the source', async t => {
    const { port, source, outcome, app, logs } = await limited(t, { maxStreamsPerClient: 1, clientKey: () => { throw Object.assign(new Error('who?'), { statusCode: 401 }) } })
    for (let i = 0; i < 2; i++) t.match(await refused(t, port, '/source'), { status: 401, body: { message: 'who?' } })
    t.equal(source.asked, 0)
    t.ok(source.returned >= 1)
    t.match(await outcome(), { reason: 'failed', error: { message: 'who?' } })
    t.match(app.streaming.stats(), { open: 0, opened: 0 })
    t.equal(logs.filter(({ msg }) => msg === 'stream closed').length, 0)
  })

  for (const [name, key] of [['undefined', undefined], ['a number', 7], ['a promise', Promise.resolve('ada')]] as const) {
    t.test(`a clientKey that returns ${name} is FST_STREAM_INVALID_OPTION`, async t => {
      const { port } = await limited(t, { maxStreamsPerClient: 1, clientKey: (() => key) as never })
      t.match(await refused(t, port), { status: 500, body: { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'clientKey' must be a function that returns a string, got / } })
    })
  }

  t.test('maxStreams is looked at first', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1, maxStreamsPerClient: 1 })
    await occupy()
    t.match(await refused(t, port), { status: 503, body: { message: 'Too many streams: maxStreams is 1' } })
  })
})

t.test("overload: 'retry'", async t => {
  for (const limit of ['maxStreams', 'maxStreamsPerClient'] as const) {
    t.test(`answers an event stream over ${limit} with 200, a random retry and the end`, async t => {
      const { port, occupy } = await limited(t, { [limit]: 1, overload: 'retry' })
      await occupy()
      for (const [random, retry] of [[0, 1000], [1 - Number.EPSILON, 5000]]) {
        const captured = t.capture(Math, 'random', () => random)
        const { head, body, isWhole } = await fetchRaw(t, port)
        captured.restore()
        t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
        t.equal(body, `retry: ${retry}\n`)
        t.equal(isWhole, true)
        t.match(head, /\r\ncontent-type: text\/event-stream(\r\n|$)/i)
        t.match(head, /\r\ncache-control: no-cache, no-transform(\r\n|$)/i)
        t.match(head, /\r\nx-accel-buffering: no(\r\n|$)/i)
        t.notMatch(head, /retry-after/i)
      }
    })
  }

  t.test('takes its time from shutdown.retry', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1, overload: 'retry', shutdown: { retry: 77 } })
    await occupy()
    t.equal((await fetchRaw(t, port)).body, 'retry: 77\n')
  })

  t.test('runs the onSend hooks, and answers 200 whatever code was set', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1, overload: 'retry' }, {}, app => {
      app.addHook('onSend', async (request, reply) => { reply.header('x-hook', 'ran') })
      app.get('/created', (request, reply) => reply.code(201).header('x-mine', 'kept').sse(() => {}))
    })
    await occupy()
    const { head } = await fetchRaw(t, port, { path: '/created' })
    t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
    t.match(head, /\r\nx-hook: ran(\r\n|$)/)
    t.match(head, /\r\nx-mine: kept(\r\n|$)/)
  })

  t.test('takes no notice of a serializer of the reply', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1, overload: 'retry', shutdown: { retry: 77 } }, {}, app => {
      app.get('/serialized', (request, reply) => reply.serializer(value => JSON.stringify(value)).sse(() => {}))
    })
    await occupy()
    t.equal((await fetchRaw(t, port, { path: '/serialized' })).body, 'retry: 77\n')
  })

  t.test('leaves no header of a stream on the error reply of an onSend hook that throws', async t => {
    const { port, occupy } = await limited(t, { maxStreams: 1, overload: 'retry' }, {}, app => {
      app.addHook('onSend', async request => { if (request.url === '/refused') throw Object.assign(new Error('hook'), { statusCode: 418 }) })
      app.get('/refused', (request, reply) => reply.sse(() => {}))
    })
    await occupy()
    const { head, body } = await fetchRaw(t, port, { path: '/refused' })
    t.match(head, /^HTTP\/1\.1 418 /)
    t.notMatch(head, /event-stream|x-accel-buffering|no-transform/)
    t.match(JSON.parse(body), { message: 'hook' })
  })

  t.test('answers writers with 503 and 429 all the same', async t => {
    const all = await limited(t, { maxStreams: 1, overload: 'retry' })
    await all.occupy()
    t.match(await refused(t, all.port, '/writer'), { status: 503, retryAfter: /^[1-5]$/, body: { code: 'FST_STREAM_LIMIT' } })
    const perClient = await limited(t, { maxStreamsPerClient: 1, overload: 'retry' })
    await perClient.occupy()
    t.match(await refused(t, perClient.port, '/writer'), { status: 429, retryAfter: /^[1-5]$/, body: { code: 'FST_STREAM_LIMIT' } })
  })

  t.test('gives a handler that waits for its stream one that is closed', async t => {
    const { port, occupy, logged } = await limited(t, { maxStreams: 1, overload: 'retry' })
    await occupy()
    t.match((await fetchRaw(t, port, { path: '/bare' })).body, /^retry: \d+\n$/)
    t.match(await logged('bare'), { isOpen: false, outcome: { reason: 'failed' } })
  })
})

for (const overload of ['refuse', 'retry'] as const) {
  for (const limit of ['maxStreams', 'maxStreamsPerClient'] as const) {
    t.test(`a stream over ${limit} with overload '${overload}' is no stream of ours: failed with FST_STREAM_LIMIT, released, told to onClose alone`, async t => {
      const messages: unknown[] = []
      const listener = (message: unknown) => { messages.push(message) }
      for (const name of ['fastify-streaming:open', 'fastify-streaming:close']) {
        diagnosticsChannel.subscribe(name, listener)
        t.teardown(() => diagnosticsChannel.unsubscribe(name, listener))
      }
      const closed: unknown[] = []
      let signal!: AbortSignal
      let runs = 0
      const { app, port, occupy, source, outcome, logs } = await limited(t, { [limit]: 1, overload }, {}, app => {
        app.get('/function', (request, reply) => reply.sse(stream => { runs++; signal = stream.signal }, { onClose: outcome => { closed.push(outcome) } }))
      })
      await occupy()
      const [before, messagesBefore] = [app.streaming.stats(), messages.length]
      await fetchRaw(t, port, { path: '/source' })
      t.match(await outcome(), { reason: 'failed', events: 0, bytes: 0, error: { code: 'FST_STREAM_LIMIT', statusCode: limit === 'maxStreams' ? 503 : 429 } })
      t.same([source.asked, source.returned], [0, 1])
      await fetchRaw(t, port, { path: '/function' })
      t.equal(closed[0], await outcome(1), 'of the call and of the plugin')
      t.equal(runs, 0)
      t.equal(signal, undefined)
      await turn(3)
      t.same(app.streaming.stats(), before)
      t.equal(messages.length, messagesBefore)
      t.same(logs.filter(({ msg, level }) => msg === 'stream closed' || level === 40), [])
    })
  }
}
