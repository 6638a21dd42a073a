import './fixtures/guard.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http2, { type ClientHttp2Session, type Http2ServerResponse } from 'node:http2'
import net from 'node:net'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyReply } from 'fastify'
import t from 'tap'
import { Agent, request as send } from 'undici'
import { deferred, eventually, fakeClock, turn } from './fixtures/clock.ts'
import { connect, dechunk, fetchRaw, open, requestText } from './fixtures/raw.ts'
import { needsDrain, serve, type ServeOptions } from './fixtures/server.ts'
import { cert, key } from './fixtures/tls.ts'
import streaming, { type EventStream, type StreamOutcome, type StreamWriter } from '../lib/index.ts'

type Test = Parameters<typeof serve>[0]

const farewell = /^retry: (?<retry>\d+)\n$/

/** The body of a response in raw text, and whether it has its end. */
function bodyOf (text: string): { body: string, isWhole: boolean } {
  const split = text.indexOf('\r\n\r\n')
  const body = text.slice(split + 4)
  // A body that was written and ended before its head was sent has a length.
  const length = /\r\ncontent-length: (\d+)\r\n/i.exec(text.slice(0, split + 2))
  return length === null ? dechunk(body) : { body, isWhole: body.length === Number(length[1]) }
}

const chunk = 'x'.repeat(64 << 10)

function * forever (): Generator<string> {
  for (;;) yield chunk
}

/** What a response in raw text ends with, after `sent`: the reconnection time of a body that has its end. */
function farewellRetry (t: Test, text: string, sent: string): number {
  const { body, isWhole } = bodyOf(text)
  t.equal(isWhole, true, 'the body has its end')
  t.equal(body.slice(0, sent.length), sent)
  t.match(body.slice(sent.length), farewell)
  return Number(farewell.exec(body.slice(sent.length))?.groups?.retry)
}

/** A server with one open event stream that has sent one event. */
async function openEventStream (t: Test, options: ServeOptions = {}, headers: string[] = ['Connection: keep-alive']) {
  let stream!: EventStream
  let reply!: Parameters<Parameters<typeof serve>[1]>[1]
  const server = await serve(t, async (request, theReply) => {
    reply = theReply
    stream = await reply.sse()
    void stream.send('hi')
  }, options)
  const client = open(t, server.port, { headers })
  await client.until('data: hi\n\n')
  return { ...server, client, stream, raw: reply.raw }
}

/** A server with one open writer whose callback is in its first round until `finish()`. */
async function openWriter (t: Test, options: ServeOptions = {}) {
  let writer!: StreamWriter
  let finish!: (result: false) => void
  const finished = new Promise<false>(resolve => { finish = resolve })
  const server = await serve(t, (request, reply) => reply.streamWriter(async theWriter => {
    writer = theWriter
    await writer.write('begun\n')
    return await finished
  }), options)
  const client = open(t, server.port, { headers: ['Connection: keep-alive'] })
  await client.until('begun\n')
  return { ...server, client, writer, finish: () => finish(false) }
}

/** Fills a connection up to the last buffer; resolves when the socket takes no more. */
async function stall (client: { socket: net.Socket }, raw: Parameters<typeof needsDrain>[0], write: () => unknown): Promise<void> {
  client.socket.pause()
  void write()
  await eventually(() => needsDrain(raw))
}

/** Milliseconds that `work` took, without those in which this thread was ready and other processes had the processors: a quiet machine has none. */
async function timed (work: () => Promise<unknown>): Promise<number> {
  const [start, waited] = [performance.now(), waitedForProcessor()]
  await work()
  return performance.now() - start - (waitedForProcessor() - waited)
}

function waitedForProcessor (): number {
  try {
    return Number(readFileSync('/proc/self/schedstat', 'latin1').split(' ')[1]) / 1e6
  } catch {
    return 0 // Not on Linux.
  }
}

t.test('1000 open streams, some of them stalled, close within a second', async t => {
  const streams = 1000
  const stalledEvery = 25
  let full = 0
  const { app, port, outcomes } = await serve(t, (request, reply) => {
    const { raw } = reply
    const whenFull = async () => {
      let turns = 0
      await eventually(() => (turns = needsDrain(raw) ? turns + 1 : 0) > 10)
      full++
    }
    switch (request.headers['x-body']) {
      case 'writer': return reply.streamWriter(async writer => {
        await writer.write('begun\n')
        await writer.closed
      })
      case 'stalled writer':
        void whenFull()
        return reply.streamWriter(forever())
      case 'stalled':
        void whenFull()
        return reply.sse(forever())
      default: return reply.sse(stream => { void stream.send('hi') })
    }
  })
  const readers: Array<ReturnType<typeof open>> = []
  const writers: Array<ReturnType<typeof open>> = []
  const stalled: Array<ReturnType<typeof open>> = []
  const started: Array<Promise<unknown>> = []
  for (let i = 0; i < streams; i++) {
    const isStalled = i % stalledEvery === 0
    const isWriter = i % 2 === 0
    const body = isStalled ? (isWriter ? 'stalled writer' : 'stalled') : (isWriter && i % 10 === 2 ? 'writer' : 'sse')
    const client = connect(t, port)
    if (isStalled) client.socket.pause()
    client.write(requestText({ headers: ['Connection: keep-alive', `X-Body: ${body}`] }))
    const group = isStalled ? stalled : body === 'writer' ? writers : readers
    group.push(client)
    if (!isStalled) started.push(client.until(body === 'writer' ? 'begun\n' : 'data: hi\n\n'))
  }
  await Promise.all(started)
  await eventually(() => full === stalled.length)
  t.equal(app.streaming.open, streams)
  t.equal(stalled.length, 40)

  const start = performance.now()
  const time = await timed(() => app.close())
  t.comment(`closed ${streams} streams in ${Math.round(performance.now() - start)} ms (at least ${Math.round(time)} ms with the machine to itself)`)
  t.ok(time < 1000, `app.close() took ${Math.round(time)} ms`)
  t.equal(app.streaming.open, 0)
  t.equal(outcomes.length, streams)
  t.same(new Set(outcomes.map(({ reason }) => reason)), new Set(['shutdown']))

  const retries = new Set<number>()
  let proper = 0
  for (const text of await Promise.all(readers.map(client => client.end()))) {
    const { body, isWhole } = bodyOf(text)
    const retry = Number(/^data: hi\n\nretry: (\d+)\n$/.exec(body)?.[1])
    if (isWhole && retry >= 1000 && retry <= 5000) proper++
    retries.add(retry)
  }
  t.equal(proper, readers.length, 'every event stream has its retry and its end')
  t.ok(retries.size > readers.length / 4, 'clients do not come back in a herd')
  const cut = (await Promise.all(writers.map(client => client.end()))).filter(text => !bodyOf(text).isWhole)
  t.equal(cut.length, writers.length, 'no cut body looks whole')
  for (const client of stalled) client.socket.resume()
  const stalledBodies = (await Promise.all(stalled.map(client => client.end()))).filter(text => !bodyOf(text).isWhole)
  t.equal(stalledBodies.length, stalled.length)
})

t.test('event streams', async t => {
  t.test('get retry as the last block and a proper end, and the connection ends', async t => {
    const { app, client, outcome } = await openEventStream(t)
    await app.close()
    const retry = farewellRetry(t, await client.end(), 'data: hi\n\n')
    t.ok(retry >= 1000 && retry <= 5000)
    t.equal(client.errorCode, undefined)
    t.match(await outcome(), { reason: 'shutdown', events: 1, bytes: 'data: hi\n\n'.length + `retry: ${retry}\n`.length })
  })

  for (const [name, shutdown, lowest, highest] of [
    ['[1000, 5000] unless told otherwise', undefined, 1000, 5000],
    ['a range', { retry: [7, 9] }, 7, 9],
    ['one time', { retry: 250 }, 250, 250]
  ] as const) {
    t.test(`shutdown.retry: ${name}, both ends included`, async t => {
      for (const [random, expected] of [[0, lowest], [1 - Number.EPSILON, highest]]) {
        const { app, client } = await openEventStream(t, { streaming: { shutdown: shutdown as never } })
        const captured = t.capture(Math, 'random', () => random)
        await app.close()
        captured.restore()
        t.equal(farewellRetry(t, await client.end(), 'data: hi\n\n'), expected)
      }
    })
  }

  t.test('their signals abort at once, with the reason shutdown, and sources are released', async t => {
    const order: string[] = []
    let signal!: AbortSignal
    const source = {
      returned: 0,
      [Symbol.asyncIterator] () { return this },
      next: () => new Promise<never>(() => {}),
      async return () { this.returned++; return { done: true as const, value: undefined } }
    }
    const { app, port } = await serve(t, (request, reply) => reply.sse((stream, theSignal) => {
      signal = theSignal
      signal.addEventListener('abort', () => order.push('aborted'))
      return source
    }))
    const client = open(t, port)
    await client.until('\r\n\r\n')
    await app.close().then(() => order.push('closed'))
    t.same(order, ['aborted', 'closed'])
    t.match(signal.reason, { name: 'AbortError', reason: 'shutdown' })
    t.equal(source.returned, 1)
    farewellRetry(t, await client.end(), '')
  })

  t.test('with reconnect: false are to come back too: their answer was not whole', async t => {
    const { app, port } = await serve(t, (request, reply) => reply.sse(() => {}, { reconnect: false }))
    const client = open(t, port)
    await client.until('\r\n\r\n')
    await app.close()
    farewellRetry(t, await client.end(), '')
  })

  t.test('that are stalled are cut half a second later, and no sooner', async t => {
    const { app, client, stream, raw, outcome } = await openEventStream(t)
    await stall(client, raw, () => stream.send('x'.repeat(20 << 20)))
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(499)
    await turn(5)
    t.equal(raw.closed, false)
    clock.tick(1)
    await closed
    t.match(await outcome(), { reason: 'shutdown' })
    client.socket.resume()
    t.equal(bodyOf(await client.end()).isWhole, false)
  })

  t.test('of a slow client that catches up in time get their farewell', async t => {
    const { app, client, stream, raw } = await openEventStream(t)
    const data = 'x'.repeat(20 << 20)
    await stall(client, raw, () => stream.send(data))
    fakeClock(t)
    const closed = app.close()
    await turn(5)
    client.socket.resume()
    await closed
    farewellRetry(t, await client.end(), `data: hi\n\ndata: ${data}\n\n`)
  })

  t.test('that had ended, but whose client has not taken the rest, are cut: shutdown', async t => {
    const { app, client, stream, raw, outcome } = await openEventStream(t)
    await stall(client, raw, () => stream.send('x'.repeat(20 << 20)))
    stream.close()
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(500)
    await closed
    t.match(await outcome(), { reason: 'closed' }, 'the first reason counts')
  })

  t.test('behind another on the same connection end too', async t => {
    const { app, port, outcomes } = await serve(t, (request, reply) => reply.sse(stream => { void stream.send('hi') }))
    const client = connect(t, port)
    client.write(requestText({ headers: ['Connection: keep-alive'] }).repeat(2))
    await client.until('data: hi\n\n')
    await eventually(() => app.streaming.open === 2)
    await app.close()
    t.equal((await client.end()).split('HTTP/1.1 200 OK').length - 1, 2)
    t.same(outcomes.map(({ reason }) => reason), ['shutdown', 'shutdown'])
    t.equal(client.received.match(/retry: \d+\n\r\n0\r\n\r\n/g)?.length, 2)
  })
})

t.test('writers', async t => {
  t.test('may finish: their signal is quiet, write goes on giving true, and a body finished in time is completed', async t => {
    const { app, client, writer, finish, outcome } = await openWriter(t, { streaming: { shutdown: { grace: 60_000 } } })
    const closed = app.close()
    await turn(5)
    t.equal(writer.signal.aborted, false)
    t.equal(await writer.write('more\n'), true)
    t.equal(await writer.writeln('last'), true)
    finish()
    await closed
    t.match(await outcome(), { reason: 'completed', bytes: 'begun\nmore\nlast\n'.length })
    t.same(bodyOf(await client.end()), { body: 'begun\nmore\nlast\n', isWhole: true })
    t.match(writer.signal.reason, { reason: 'completed' })
  })

  t.test('go on round after round', async t => {
    const go = deferred()
    const { app, port, outcome } = await serve(t, (request, reply) => reply.streamWriter(async writer => {
      await writer.write(`${writer.round}\n`)
      if (writer.round === 0) await go.promise
      return writer.round < 5
    }), { streaming: { shutdown: { grace: 60_000 } } })
    const client = open(t, port)
    await client.until('0\n')
    const closed = app.close()
    await turn(5)
    go.resolve()
    await closed
    t.same(bodyOf(await client.end()), { body: '0\n1\n2\n3\n4\n5\n', isWhole: true })
    t.match(await outcome(), { reason: 'completed' })
  })

  for (const [name, shutdown, grace] of [['half a second unless told otherwise', {}, 500], ['as long as shutdown.grace says', { grace: 2000 }, 2000]] as const) {
    t.test(`are aborted and cut after the grace: ${name}`, async t => {
      const { app, client, writer, outcome } = await openWriter(t, { streaming: { shutdown } })
      const clock = fakeClock(t)
      const closed = app.close()
      await turn(5)
      clock.tick(grace - 1)
      await turn(5)
      t.equal(writer.signal.aborted, false)
      t.equal(await writer.write('late\n'), true)
      await client.until('late\n')
      clock.tick(1)
      t.match(writer.signal.reason, { name: 'AbortError', reason: 'shutdown' })
      t.equal(await writer.write('too late\n'), false)
      await closed
      t.same(bodyOf(await client.end()), { body: 'begun\nlate\n', isWhole: false })
      t.match(await outcome(), { reason: 'shutdown', bytes: 'begun\nlate\n'.length })
    })
  }

  t.test('with shutdown.grace 0 are cut at once', async t => {
    const { app, client, outcome } = await openWriter(t, { streaming: { shutdown: { grace: 0 } } })
    await app.close()
    t.equal(bodyOf(await client.end()).isWhole, false)
    t.match(await outcome(), { reason: 'shutdown' })
  })

  t.test('on HTTP/1.0 are cut by a reset', async t => {
    const { app, port } = await serve(t, (request, reply) => reply.streamWriter(async writer => {
      await writer.write('begun\n')
      await writer.closed
    }), { streaming: { shutdown: { grace: 0 } } })
    const client = open(t, port, { version: '1.0' })
    await client.until('begun\n')
    await app.close()
    await client.end()
    t.equal(client.errorCode, 'ECONNRESET')
  })

  t.test('that have ended, but whose client has not taken the rest, are cut after the grace: shutdown', async t => {
    let raw!: Parameters<typeof needsDrain>[0]
    const go = deferred()
    const { app, port, outcome } = await serve(t, (request, reply) => reply.streamWriter(async writer => {
      raw = reply.raw
      await go.promise
      void writer.end(Buffer.alloc(20 << 20))
    }))
    const client = open(t, port)
    client.socket.pause()
    go.resolve()
    await eventually(() => raw !== undefined && needsDrain(raw))
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(499)
    await turn(5)
    t.equal(app.streaming.open, 1)
    clock.tick(1)
    await closed
    t.match(await outcome(), { reason: 'shutdown' }, 'the client has not left')
    client.socket.resume()
    t.equal(bodyOf(await client.end()).isWhole, false)
  })
})

t.test('streams before their head', async t => {
  /** Starts a request whose stream has no head; `started` is called by the handler. */
  async function openHeadless (t: Test, handler: Parameters<typeof serve>[1], options?: ServeOptions, setup?: Parameters<typeof serve>[3]) {
    const started = deferred()
    const server = await serve(t, (request, reply) => {
      started.resolve()
      return handler(request, reply)
    }, options, setup)
    const client = open(t, server.port, { headers: ['Connection: keep-alive'] })
    await started.promise
    await turn(3)
    t.equal(client.received, '')
    return { ...server, client }
  }

  t.test('an event stream that waits for its first event gets head, retry and end', async t => {
    const { app, client, outcome } = await openHeadless(t, (request, reply) => reply.sse(() => {}, { commitAfter: Infinity }))
    await app.close()
    const text = await client.end()
    t.match(text, /^HTTP\/1\.1 200 OK\r\n/)
    t.match(text, /\r\ncontent-type: text\/event-stream\r\n/)
    farewellRetry(t, text, '')
    t.match(await outcome(), { reason: 'shutdown', events: 0 })
  })

  t.test('an event stream whose onSend hooks are running gets all three when they have run', async t => {
    const go = deferred()
    const { app, client, outcome } = await openHeadless(t, (request, reply) => reply.sse(() => {}), {}, app => {
      app.addHook('onSend', async (request, reply) => {
        await go.promise
        reply.header('x-hook', 'ran')
      })
    })
    const closed = app.close()
    await turn(5)
    t.equal(client.received, '')
    go.resolve()
    await closed
    const text = await client.end()
    t.match(text, /\r\nx-hook: ran\r\n/)
    farewellRetry(t, text, '')
    t.match(await outcome(), { reason: 'shutdown' })
  })

  t.test('an event stream whose onSend hooks never end is cut', async t => {
    const { app, client, outcome } = await openHeadless(t, (request, reply) => reply.sse(() => {}), {}, app => {
      app.addHook('onSend', async () => { await new Promise(() => {}) })
    })
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(500)
    await closed
    t.equal(await client.end(), '')
    t.match(await outcome(), { reason: 'shutdown', events: 0, bytes: 0 })
  })

  t.test('a writer that has written nothing when the grace is over gets 503', async t => {
    const { app, client, outcome } = await openHeadless(t, (request, reply) => reply.streamWriter(async writer => { await writer.closed }))
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    t.equal(client.received, '')
    clock.tick(500)
    await closed
    const text = await client.end()
    t.match(text, /^HTTP\/1\.1 503 /)
    t.match(text, /"code":"FST_STREAM_UNAVAILABLE"/)
    t.match(await outcome(), { reason: 'shutdown' })
  })

  t.test('a writer gets its 503 also when the hooks of that reply are asynchronous', async t => {
    const { app, client } = await openHeadless(t, (request, reply) => reply.streamWriter(async writer => { await writer.closed }), {}, app => {
      app.addHook('onSend', async () => { await turn(2) })
    })
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(500)
    await closed
    t.match(await client.end(), /^HTTP\/1\.1 503 /)
  })

  t.test('a writer whose hooks never end is cut, and holds nothing up', async t => {
    const { app, client, outcome } = await openHeadless(t, (request, reply) => reply.streamWriter(['begun\n']), {}, app => {
      app.addHook('onSend', async () => { await new Promise(() => {}) })
    })
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(500)
    await turn(5)
    clock.tick(250)
    await closed
    t.equal(await client.end(), '')
    t.match(await outcome(), { reason: 'shutdown' })
  })

  t.test('a writer that begins and ends within the grace is completed', async t => {
    const go = deferred()
    const { app, client, outcome } = await openHeadless(t, (request, reply) => reply.streamWriter(async writer => {
      await go.promise
      void writer.end('all of it')
    }), { streaming: { shutdown: { grace: 60_000 } } })
    const closed = app.close()
    await turn(5)
    go.resolve()
    await closed
    t.same(bodyOf(await client.end()), { body: 'all of it', isWhole: true })
    t.match(await outcome(), { reason: 'completed' })
  })
})

t.test('connections', async t => {
  for (const forceCloseConnections of [true, false, 'idle'] as const) {
    t.test(`with forceCloseConnections: ${forceCloseConnections} bodies get their end, and connections that are kept alive end`, async t => {
      const { app, port, client, outcomes } = await openEventStream(t, { fastify: { forceCloseConnections } })
      const idle = open(t, port, { method: 'HEAD', headers: ['Connection: keep-alive'] })
      await idle.until('\r\n\r\n')
      await app.close()
      farewellRetry(t, await client.end(), 'data: hi\n\n')
      t.equal(client.errorCode, undefined)
      await idle.end()
      t.same(outcomes.map(({ reason }) => reason), ['completed', 'shutdown'])
    })
  }

  t.test('of an agent that keeps them alive end', async t => {
    const { app, url } = await serve(t, (request, reply) => reply.sse(stream => { void stream.send('hi') }))
    const agent = new Agent({ keepAliveTimeout: 600_000 })
    t.teardown(() => agent.destroy())
    let left = 0
    agent.on('disconnect', () => { left++ })
    const { body } = await send(url, { dispatcher: agent })
    const text = body.text()
    await eventually(() => app.streaming.stats().events === 1)
    await app.close()
    t.match(await text, /^data: hi\n\nretry: \d+\n$/)
    await eventually(() => left === 1)
  })

  t.test('a request that waits on the same connection is not answered by a stream', async t => {
    const { app, client } = await openEventStream(t)
    const closed = app.close()
    client.write(requestText({ headers: ['Connection: keep-alive'] }))
    await closed
    const text = await client.end()
    t.equal(text.match(/200 OK/g)?.length, 1)
  })
})

t.test('HTTP/2', async t => {
  for (const [protocol, fastify, connectOptions] of [
    ['h2c', { http2: true }, {}],
    ['TLS', { http2: true, https: { key, cert } }, { rejectUnauthorized: false }]
  ] as const) {
    t.test(protocol, async t => {
      async function openSession (t: Test, port: number, settings: http2.Settings = {}) {
        const session = http2.connect(`${protocol === 'TLS' ? 'https' : 'http'}://localhost:${port}`, { ...connectOptions, settings })
        t.teardown(() => session.destroy())
        const seen = { goaway: [] as number[], errors: [] as Error[] }
        session.on('goaway', code => { seen.goaway.push(code) })
        session.on('error', error => { seen.errors.push(error) })
        const ended = once(session, 'close')
        await once(session, 'connect')
        return { session, seen, ended }
      }

      /** Sends a request and collects its body. */
      function ask (session: ClientHttp2Session, path = '/') {
        const stream = session.request({ ':path': path })
        const answer = { status: 0, text: '', error: undefined as Error | undefined }
        stream.setEncoding('latin1')
        stream.on('response', headers => { answer.status = headers[':status'] as number })
        stream.on('data', chunk => { answer.text += chunk })
        stream.on('error', error => { answer.error = error })
        return { stream, answer, closed: new Promise<void>(resolve => { stream.on('close', resolve) }) }
      }

      const sseServer = (t: Test, options: ServeOptions = {}) =>
        serve(t, (request, reply) => reply.sse(stream => { void stream.send('hi') }), { ...options, fastify: { ...fastify, ...options.fastify } as never },
          app => { app.get('/once', (request, reply) => reply.sse(['one'])) })

      t.test('event streams get retry and the end, their session GOAWAY and its end', async t => {
        const { app, port, outcome } = await sseServer(t)
        const { session, seen, ended } = await openSession(t, port)
        const { answer, closed } = ask(session)
        await eventually(() => answer.text !== '')
        // Nothing has to wait for the grace.
        fakeClock(t)
        await app.close()
        await Promise.all([closed, ended])
        t.match(answer.text, /^data: hi\n\nretry: \d+\n$/)
        t.equal(answer.error, undefined)
        t.equal(seen.goaway[0], http2.constants.NGHTTP2_NO_ERROR)
        t.match(await outcome(), { reason: 'shutdown' })
      })

      t.test('a session whose stream has completed ends too', async t => {
        const { app, port, outcome } = await sseServer(t)
        const { session, seen, ended } = await openSession(t, port)
        const { answer, closed } = ask(session, '/once')
        await closed
        t.equal(answer.text, 'data: one\n\n')
        t.match(await outcome(), { reason: 'completed' })
        fakeClock(t)
        await app.close()
        await ended
        t.equal(seen.goaway[0], http2.constants.NGHTTP2_NO_ERROR)
      })

      t.test('a session is destroyed after the grace, whatever else it does', async t => {
        const { app, port } = await serve(t, (request, reply) => reply.sse(stream => { void stream.send('hi') }), { fastify: fastify as never }, app => {
          app.get('/never', () => new Promise(() => {}))
        })
        const { session, seen, ended } = await openSession(t, port)
        const { answer } = ask(session)
        ask(session, '/never')
        await eventually(() => answer.text !== '')
        const clock = fakeClock(t)
        let isClosed = false
        const closed = app.close().then(() => { isClosed = true })
        await eventually(() => answer.text.endsWith('\n') && answer.text.includes('retry'))
        clock.tick(499)
        await turn(10)
        t.equal(isClosed, false)
        t.equal(session.destroyed, false)
        t.same(seen.goaway, [http2.constants.NGHTTP2_NO_ERROR])
        clock.tick(1)
        await Promise.all([closed, ended])
      })

      t.test('a stalled stream is cut, and its session ends', async t => {
        let raw!: { writableLength: number }
        const { app, port, outcome } = await serve(t, (request, reply) => {
          raw = (reply.raw as unknown as Http2ServerResponse).stream
          return reply.sse(stream => { void stream.send('x'.repeat(20 << 20)) })
        }, { fastify: fastify as never })
        const { session, ended } = await openSession(t, port)
        const stream = session.request({ ':path': '/' })
        stream.on('error', () => {})
        await once(stream, 'response')
        await eventually(() => raw.writableLength > 0)
        const clock = fakeClock(t)
        const closed = app.close()
        await turn(5)
        clock.tick(500)
        await Promise.all([closed, ended])
        t.match(await outcome(), { reason: 'shutdown' })
      })

      t.test('the farewell arrives also with shutdown.grace 0', async t => {
        const { app, port } = await sseServer(t, { streaming: { shutdown: { grace: 0 } } })
        const { session, ended } = await openSession(t, port)
        const { answer, closed } = ask(session)
        await eventually(() => answer.text !== '')
        await app.close()
        await Promise.all([closed, ended])
        t.match(answer.text, /^data: hi\n\nretry: \d+\n$/)
        t.equal(answer.error, undefined)
      })

      t.test('a writer may finish within the grace, and is reset after it', async t => {
        const { app, port, outcome } = await serve(t, (request, reply) => reply.streamWriter(async writer => {
          await writer.write('begun\n')
          await writer.closed
        }), { fastify: fastify as never })
        const { session, ended } = await openSession(t, port)
        const { answer, stream, closed } = ask(session)
        await eventually(() => answer.text !== '')
        const clock = fakeClock(t)
        const isClosed = app.close()
        await turn(10)
        t.equal(stream.closed, false)
        clock.tick(500)
        await Promise.all([isClosed, closed, ended])
        t.match(answer.error, { code: 'ERR_HTTP2_STREAM_ERROR' })
        t.match(await outcome(), { reason: 'shutdown' })
      })

      t.test('a session that comes while the app closes ends with its stream, and with GOAWAY', async t => {
        const held = deferred()
        const { app, port } = await serve(t, (request, reply) => reply.sse(() => {}), { fastify: { ...fastify, return503OnClosing: false } as never }, app => {
          app.addHook('preClose', async () => { await held.promise })
        })
        const closed = app.close()
        await turn(5)
        const { session, seen, ended } = await openSession(t, port)
        const { answer, closed: answered } = ask(session)
        await Promise.all([answered, ended])
        t.match(answer.text, /^retry: \d+\n$/)
        t.equal(answer.error, undefined)
        t.equal(seen.goaway[0], http2.constants.NGHTTP2_NO_ERROR)
        held.resolve()
        await closed
      })

      t.test('a session that comes while the app closes, and takes nothing, is destroyed', async t => {
        const held = deferred()
        const { app, port, outcome } = await serve(t, (request, reply) => reply.sse(() => {}), { fastify: { ...fastify, return503OnClosing: false } as never }, app => {
          app.addHook('preClose', async () => { await held.promise })
        })
        const closed = app.close()
        await turn(5)
        const { session, ended } = await openSession(t, port, { initialWindowSize: 0 })
        await once(session, 'localSettings')
        const clock = fakeClock(t)
        const stream = session.request({ ':path': '/' })
        stream.on('error', () => {})
        await once(stream, 'response')
        held.resolve()
        clock.tick(500)
        await Promise.all([closed, ended])
        t.match(await outcome(), { reason: 'shutdown' })
      })
    })
  }
})

t.test('requests that Fastify lets through while the app closes', async t => {
  /** An app that is closing, and stays so until `finish()`. */
  async function closing (t: Test) {
    const finish = deferred()
    const runs: string[] = []
    const released: string[] = []
    const source = (name: string) => ({
      [Symbol.asyncIterator] () { return this },
      next () { runs.push(name); return new Promise<never>(() => {}) },
      async return () { released.push(name); return { done: true as const, value: undefined } }
    })
    const server = await serve(t, (request, reply) => reply.streamWriter(async writer => {
      await writer.write('begun\n')
      await finish.promise
      return false
    }), { fastify: { return503OnClosing: false }, streaming: { shutdown: { grace: 60_000, retry: [20, 30] } } }, app => {
      app.get('/sse', (request, reply) => reply.sse(source('sse')))
      app.get('/function', (request, reply) => reply.sse(() => { runs.push('function') }))
      app.get('/bare', async (request, reply) => {
        const stream = await reply.sse()
        t.equal(stream.isOpen, false)
        t.match(await stream.closed, { reason: 'shutdown' })
      })
      app.get('/writer', (request, reply) => reply.streamWriter(source('writer')))
      app.get('/callback', (request, reply) => reply.streamWriter(() => { runs.push('callback') }))
    })
    const first = open(t, server.port)
    await first.until('begun\n')
    const closed = server.app.close()
    await turn(2)
    return { ...server, closed, finish: finish.resolve, runs, released }
  }

  for (const path of ['/sse', '/function', '/bare']) {
    t.test(`an event stream gets head, retry and end, and its source is not started: ${path}`, async t => {
      const { port, closed, finish, runs, released, outcome } = await closing(t)
      const client = open(t, port, { path, headers: ['Connection: keep-alive'] })
      const text = await client.end()
      t.match(text, /^HTTP\/1\.1 200 OK\r\n/)
      t.match(text, /\r\ncontent-type: text\/event-stream\r\n/)
      const retry = Number(/\r\n\r\nretry: (\d+)\n$/.exec(text)?.[1])
      t.ok(retry >= 20 && retry <= 30)
      t.match(await outcome(), { reason: 'shutdown', events: 0 })
      t.same(runs, [])
      t.same(released, path === '/sse' ? ['sse'] : [])
      finish()
      await closed
    })
  }

  for (const path of ['/writer', '/callback']) {
    t.test(`a writer gets 503, and its source is not started: ${path}`, async t => {
      const { port, closed, finish, runs, released, outcome } = await closing(t)
      const { head, body } = await fetchRaw(t, port, { path })
      t.match(head, /^HTTP\/1\.1 503 /)
      t.match(JSON.parse(body), { statusCode: 503, code: 'FST_STREAM_UNAVAILABLE' })
      t.match(await outcome(), { reason: 'shutdown', events: 0, bytes: 0 })
      t.same(runs, [])
      t.same(released, path === '/writer' ? ['writer'] : [])
      finish()
      await closed
    })
  }

  t.test('one whose onSend hooks never end holds nothing up', async t => {
    const held = deferred()
    const started = deferred()
    const { app, port, outcome } = await serve(t, (request, reply) => reply.sse(() => {}), { fastify: { return503OnClosing: false } }, app => {
      app.addHook('preClose', async () => { await held.promise })
      app.addHook('onSend', async () => {
        started.resolve()
        await new Promise(() => {})
      })
    })
    const closed = app.close()
    await turn(5)
    const clock = fakeClock(t)
    const client = open(t, port)
    await started.promise
    held.resolve()
    await turn(5)
    clock.tick(500)
    await closed
    t.equal(await client.end(), '')
    t.match(await outcome(), { reason: 'shutdown' })
  })

  t.test('by default Fastify answers 503 itself', async t => {
    const { app, port, finish } = await openWriter(t, { streaming: { shutdown: { grace: 60_000 } } })
    const closed = app.close()
    await turn(2)
    t.match((await fetchRaw(t, port)).head, /^HTTP\/1\.1 503 /)
    t.equal(app.streaming.stats().opened, 1)
    finish()
    await closed
  })
})

t.test('a stream behind a reply that never comes ends with forceCloseConnections', async t => {
  const { app, port, outcome, logged } = await serve(t, (request, reply) => reply.sse(() => {}), { fastify: { forceCloseConnections: true } }, app => {
    app.get('/never', () => new Promise(() => {}))
    app.get('/writer', (request, reply) => reply.streamWriter(forever()))
  })
  const client = connect(t, port)
  client.write(['/never', '/', '/writer'].map(path => requestText({ path, headers: ['Connection: keep-alive'] })).join(''))
  await logged('incoming request', 3)
  await turn(5)
  const clock = fakeClock(t)
  const closed = app.close()
  await turn(5)
  clock.tick(500)
  await closed
  t.equal(await client.end(), '')
  for (const n of [0, 1]) t.match(await outcome(n), { reason: 'shutdown' })
})

t.test('an HTTP/2 client that has stopped holds nothing up', async t => {
  const frame = (type: number, flags: number, stream: number, payload: number[]): Buffer => Buffer.from([0, 0, payload.length, type, flags, 0, 0, 0, stream, ...payload])
  for (const isEnded of [false, true]) {
    const { app, port } = await serve(t, (request, reply) => isEnded ? reply.sse(['a']) : reply.sse(stream => { void stream.send('a') }), { fastify: { http2: true } as never })
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    t.teardown(() => { socket.destroy() })
    socket.write(Buffer.concat([
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      frame(4, 0, 0, []),
      // GET http://x/
      frame(1, 5, 1, [0x82, 0x84, 0x86, 0x41, 1, 0x78])
    ]))
    let received = ''
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      received += String(chunk)
      if (received.includes('data: a\n\n')) break
    }
    socket.pause()
    await turn(5)
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(10)
    clock.tick(500)
    await turn(10)
    clock.tick(500)
    await closed
    clock.uninstall()
    t.equal(app.streaming.open, 0)
  }
})

t.test('streams of several registrations have their time together', async t => {
  const app = Fastify()
  const outcomes: StreamOutcome[] = []
  const raws: Array<FastifyReply['raw']> = []
  for (const prefix of ['/a', '/b', '/c']) {
    await app.register(async app => {
      await app.register(streaming, { onClose: outcome => { outcomes.push(outcome) } })
      app.get('/', (request, reply) => {
        raws.push(reply.raw)
        return reply.sse(forever())
      })
    }, { prefix })
  }
  await app.listen({ port: 0, host: '127.0.0.1' })
  const clients = ['/a/', '/b/', '/c/'].map(path => open(t, (app.server.address() as AddressInfo).port, { path }))
  for (const { socket } of clients) socket.pause()
  await eventually(() => raws.length === 3 && raws.every(raw => needsDrain(raw)))
  const clock = fakeClock(t)
  const closed = app.close()
  await turn(5)
  clock.tick(500)
  await closed
  t.match(outcomes, [{ reason: 'shutdown' }, { reason: 'shutdown' }, { reason: 'shutdown' }])
})

t.test('close() of the app', async t => {
  t.test('twice is once', async t => {
    const { app, client, outcomes } = await openEventStream(t)
    await Promise.all([app.close(), app.close()])
    await app.close()
    farewellRetry(t, await client.end(), 'data: hi\n\n')
    t.equal(outcomes.length, 1)
  })

  t.test('without streams waits for nothing', async t => {
    const { app } = await serve(t, (request, reply) => reply.sse(() => {}))
    const clock = fakeClock(t)
    await app.close()
    t.equal(clock.countTimers(), 0)
  })

  t.test('leaves no timer behind', async t => {
    const { app, client } = await openEventStream(t)
    const clock = fakeClock(t)
    await app.close()
    await client.end()
    t.equal(clock.countTimers(), 0)
  })

  t.test('settles a stream before it resolves', async t => {
    let last: StreamOutcome | undefined
    const { app, stream } = await openEventStream(t)
    void stream.closed.then(outcome => { last = outcome })
    await app.close()
    t.match(last, { reason: 'shutdown' })
  })

  t.test('ends streams of inject() too', async t => {
    const { app, outcomes } = await serve(t, (request, reply) => reply.sse(stream => { void stream.send('hi') }), {}, app => {
      app.get('/stalled', (request, reply) => reply.sse(stream => { void stream.send('x'.repeat(20 << 20)) }))
    })
    const response = await app.inject({ url: '/', payloadAsStream: true })
    const stalled = await app.inject({ url: '/stalled', payloadAsStream: true })
    const clock = fakeClock(t)
    const closed = app.close()
    await turn(5)
    clock.tick(500)
    await closed
    let text = ''
    for await (const chunk of response.stream()) text += chunk
    t.match(text, /^data: hi\n\nretry: \d+\n$/)
    await t.rejects(async () => { for await (const chunk of stalled.stream()) void chunk })
    t.same(outcomes.map(({ reason }) => reason), ['shutdown', 'shutdown'])
  })
})

t.test('a process that closes its app on SIGTERM exits by itself, with streams open and stalled', async t => {
  const child = spawn(process.execPath, [fileURLToPath(new URL('fixtures/sigterm.js', import.meta.url))], {
    stdio: ['ignore', 'pipe', 'inherit'],
    // Without the loaders of this process.
    env: { ...process.env, NODE_OPTIONS: '' }
  })
  t.teardown(() => child.kill('SIGKILL'))
  const exited = once(child, 'exit')
  const [output] = await once(child.stdout, 'data') as [Buffer]
  const port = Number(String(output))
  const connection = 'Connection: keep-alive'
  const [sse, writer, report] = ['/sse', '/writer', '/report'].map(path => open(t, port, { path, headers: [connection] }))
  const stalled = open(t, port, { path: '/stalled', headers: [connection] })
  await Promise.all([sse.until('data: hi\n\n'), writer.until('begun\n'), report.until('begun\n'), stalled.until('data: x')])
  const full = once(child.stdout, 'data')
  stalled.socket.pause()
  await full
  child.kill('SIGTERM')
  t.same(await exited, [0, null])
  const retry = farewellRetry(t, await sse.end(), 'data: hi\n\n')
  t.ok(retry >= 1000 && retry <= 5000)
  t.equal(bodyOf(await writer.end()).isWhole, false)
  t.same(bodyOf(await report.end()), { body: 'begun\nended\n', isWhole: true })
  stalled.socket.resume()
  t.equal(bodyOf(await stalled.end()).isWhole, false)
})
