import '../fixtures/guard.ts'
import type { AddressInfo } from 'node:net'
import cookie from '@fastify/cookie'
import compress from '@fastify/compress'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import rateLimit from '@fastify/rate-limit'
import session from '@fastify/session'
import fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { deferred, eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { fetchRaw, open } from '../fixtures/raw.ts'
import { soon, Teapot } from '../fixtures/samples.ts'
import streaming from '../../lib/index.ts'
import { serve, troubles, type TestServer } from '../fixtures/server.ts'

const eventStreamHead =
  'HTTP/1.1 200 OK\r\n' +
  'content-type: text/event-stream\r\n' +
  'cache-control: no-cache, no-transform\r\n' +
  'x-accel-buffering: no\r\n' +
  'Connection: close\r\n' +
  'Transfer-Encoding: chunked'

/** Of a body that is whole before its head. */
function wholeHead (bytes: number): string {
  return eventStreamHead.replace('Connection: close\r\nTransfer-Encoding: chunked', `content-length: ${bytes}\r\nConnection: close`)
}

function withoutDate (head: string): string {
  return head.replace(/^Date: .*\r\n/m, '')
}

function headersOf (head: string): Record<string, string> {
  return Object.fromEntries(head.split('\r\n').slice(1).map(line => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 2)]
  }))
}

// Not there in every version of Fastify that this package works with.
const hasHandlerTimeout = 'handlerTimeout' in fastify().initialConfig
const LogController = fastify.LogController as typeof fastify.LogController | undefined

const silence = (): undefined => {}

async function * failing (): AsyncGenerator<string> {
  throw new Teapot('short and stout')
}

t.test('what the head says', async t => {
  t.test('the head is that of an event stream, and Node adds what HTTP/1.1 needs', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(soon('x')))
    const { head, body } = await fetchRaw(t, port)
    t.equal(withoutDate(head), eventStreamHead)
    t.equal(body, 'data: x\n\n')
  })

  t.test('content-type is text/event-stream whatever was set before', async t => {
    const { port } = await serve(t, (request, reply) => reply.type('text/html').sse(soon('x')))
    t.equal(withoutDate((await fetchRaw(t, port)).head), eventStreamHead)
  })

  t.test('a type that only begins like text/event-stream is replaced', async t => {
    const { port } = await serve(t, (request, reply) => reply.type('text/event-streams').sse(['x']))
    t.equal(headersOf((await fetchRaw(t, port)).head)['content-type'], 'text/event-stream')
  })

  t.test('text/event-stream with parameters is kept', async t => {
    const { port } = await serve(t, (request, reply) => reply.type('text/event-stream; charset=utf-8').sse(['x']))
    t.equal(headersOf((await fetchRaw(t, port)).head)['content-type'], 'text/event-stream; charset=utf-8')
  })

  t.test('cache-control and x-accel-buffering of the handler are kept', async t => {
    const { port } = await serve(t, (request, reply) =>
      reply.header('cache-control', 'private').header('x-accel-buffering', 'yes').sse(['x']))
    t.match(headersOf((await fetchRaw(t, port)).head), { 'cache-control': 'private', 'x-accel-buffering': 'yes' })
  })

  t.test('hooks see the headers of the stream, and neither Connection nor Transfer-Encoding', async t => {
    const seen: object[] = []
    const { port } = await serve(t, (request, reply) => reply.sse(['x']), {}, app => {
      app.addHook('onSend', async (request, reply) => { seen.push(reply.getHeaders()) })
    })
    await fetchRaw(t, port)
    t.strictSame(seen, [{
      'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no'
    }])
  })

  t.test('reply.code() is the status of the stream', async t => {
    const { port } = await serve(t, (request, reply) => reply.code(203).sse(['x']))
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1\.1 203 Non-Authoritative Information\r\n/)
    t.equal(body, 'data: x\n\n')
  })

  t.test('onSend hooks run: cookie, session, CORS, helmet and rate-limit headers are there', async t => {
    const server = await serve(t, (request, reply) => {
      request.session.set('user' as never, 'ada' as never)
      return reply.setCookie('flavour', 'oat').sse(['x'])
    }, {
      before: async app => {
        await app.register(cookie)
        await app.register(session, { secret: 'a secret of at least thirty-two bytes', cookie: { secure: false } })
        await app.register(cors, { origin: 'https://example.org' })
        await app.register(helmet)
        await app.register(rateLimit, { max: 10, timeWindow: 60_000 })
        await app.register(compress)
      }
    })
    const { head, body } = await fetchRaw(t, server.port, { headers: ['Origin: https://example.org', 'Accept-Encoding: gzip'] })
    t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
    t.match(head, /^set-cookie: flavour=oat; SameSite=Lax\r$/m)
    t.match(head, /^set-cookie: sessionId=.+; HttpOnly\r$/m)
    t.match(headersOf(head), {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
      'access-control-allow-origin': 'https://example.org',
      'x-frame-options': 'SAMEORIGIN',
      'x-ratelimit-limit': '10',
      'x-ratelimit-remaining': '9'
    })
    t.notMatch(head, /content-encoding/i)
    t.equal(body, 'data: x\n\n')
    t.strictSame(troubles(server), [])
  })
})

t.test('when the head is sent', async t => {
  t.test('it is sent with the first event, in one piece', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse((async function * () { yield 'x' })(), { retry: 7 }))
    const client = open(t, port)
    const [first] = await new Promise<string[]>(resolve => client.socket.once('data', (...args) => resolve(args as never)))
    t.match(first, /^HTTP\/1\.1 200 OK\r\n[^]*\r\nretry: 7\ndata: x\n\n/)
  })

  t.test('a source that has its first event at once does not wait for a turn of the loop', async t => {
    const order: string[] = []
    const { port } = await serve(t, (request, reply) => {
      setImmediate(() => order.push('turn'))
      return reply.sse(['x'])
    }, {}, app => { app.addHook('onSend', async () => { order.push('onSend') }) })
    await fetchRaw(t, port)
    t.strictSame(order, ['onSend', 'turn'])
  })

  t.test('it is sent after one turn of the event loop when the source has nothing yet', async t => {
    const order: string[] = []
    const { port } = await serve(t, (request, reply) => {
      setImmediate(() => order.push('turn'))
      reply.sse(silence)
      process.nextTick(() => order.push('tick'))
      setImmediate(() => order.push('turn is over'))
    }, {}, app => { app.addHook('onSend', async () => { order.push('onSend') }) })
    const client = open(t, port)
    const text = await client.until('\r\n\r\n')
    t.match(text, /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/event-stream\r\n/)
    t.strictSame(order, ['tick', 'turn', 'onSend', 'turn is over'])
    client.destroy()
  })

  t.test('reply.sse() without a source resolves once the head has been written, to a client that got no event', async t => {
    const headersSent: boolean[] = []
    const { port } = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      headersSent.push(reply.raw.headersSent, stream.isOpen)
      await stream.send('x')
      stream.close()
    })
    t.equal((await fetchRaw(t, port)).body, 'data: x\n\n')
    t.strictSame(headersSent, [true, true])
  })

  t.test('commitAfter: ms waits that long for a first event', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(silence, { commitAfter: 100 }))
    const clock = fakeClock(t)
    const client = open(t, port)
    await eventually(() => clock.countTimers() > 0)
    clock.tick(99)
    await turn(10)
    t.equal(client.received, '')
    clock.tick(1)
    await client.until('text/event-stream')
    client.destroy()
  })

  t.test('commitAfter: ms does not hold back a first event', async t => {
    const first = deferred<string>()
    const { port } = await serve(t, (request, reply) =>
      reply.sse((async function * () { yield await first.promise })(), { commitAfter: 100 }))
    const clock = fakeClock(t)
    const client = open(t, port)
    await eventually(() => clock.countTimers() > 0)
    first.resolve('x')
    await client.until('data: x\n\n')
    t.equal(clock.countTimers(), 0, 'its timer is gone')
  })

  t.test('commitAfter: Infinity waits for the first event', async t => {
    const first = deferred<string>()
    const server = await serve(t, (request, reply) =>
      reply.sse((async function * () { yield await first.promise })(), { commitAfter: Infinity }))
    const clock = fakeClock(t)
    const client = open(t, server.port)
    await server.logged('incoming request')
    clock.tick(2 ** 31)
    await turn(10)
    t.equal(client.received, '')
    first.resolve('x')
    await client.until('data: x\n\n')
  })

  t.test('the commitAfter of the plugin holds for a call that has none', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(silence), { streaming: { commitAfter: 50 } })
    const clock = fakeClock(t)
    const client = open(t, port)
    await eventually(() => clock.countTimers() > 0)
    await turn(10)
    t.equal(client.received, '')
    clock.tick(50)
    await client.until('text/event-stream')
    client.destroy()
  })

  t.test('an empty source gives the head and the end', async t => {
    const server = await serve(t, (request, reply) => reply.sse([], { commitAfter: Infinity }))
    const { head, body, isWhole } = await fetchRaw(t, server.port)
    t.equal(withoutDate(head), wholeHead(0))
    t.equal(body, '')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'completed', events: 0, bytes: 0 })
  })

  t.test('maxDuration before the head gives the head, retry and the end', async t => {
    const server = await serve(t, (request, reply) => reply.sse(silence, { commitAfter: Infinity, maxDuration: 100, retry: 7 }))
    const clock = fakeClock(t)
    const client = open(t, server.port)
    await eventually(() => clock.countTimers() > 0)
    clock.tick(100)
    const text = await client.end()
    t.match(text, /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/event-stream\r\n[^]*\r\n\r\nretry: 7\n$/)
    t.match(await server.outcome(), { reason: 'expired', bytes: 9 })
  })

  t.test('a signal that has aborted gives the head, retry and the end, and the source is released unread', async t => {
    const calls: string[] = []
    const source = {
      [Symbol.asyncIterator]: () => ({
        next: async () => { calls.push('next'); return { done: false, value: 'x' } },
        return: async () => { calls.push('return'); return { done: true, value: undefined } }
      })
    }
    const server = await serve(t, (request, reply) => reply.sse(source, { signal: AbortSignal.abort('no more'), retry: 7 }))
    const { head, body } = await fetchRaw(t, server.port)
    t.equal(withoutDate(head), wholeHead(9))
    t.equal(body, 'retry: 7\n')
    t.match(await server.outcome(), { reason: 'aborted', error: 'no more' })
    t.strictSame(calls, ['return'])
  })
})

t.test('an error before the head is an ordinary Fastify error', async t => {
  function errorLines ({ logs }: TestServer): Array<[number, string | undefined]> {
    return logs.filter(line => line.err !== undefined).map(line => [line.level, line.err?.message])
  }

  async function isOrdinary (t: Test, server: TestServer, status: number, body: object, logged: Array<[number, string]>): Promise<Record<string, string>> {
    const reply = await fetchRaw(t, server.port)
    t.match(reply.text, new RegExp(`^HTTP/1\\.1 ${status} `))
    t.equal(reply.text.split('HTTP/1.1').length, 2, 'one reply')
    t.strictSame(JSON.parse(reply.body), body)
    const headers = headersOf(reply.head)
    t.equal(headers['content-type'], 'application/json; charset=utf-8')
    t.notOk('cache-control' in headers, 'no header of ours')
    t.notOk('x-accel-buffering' in headers, 'no header of ours')
    const outcome = await server.outcome()
    t.match(outcome, { reason: 'failed', events: 0, bytes: 0 })
    await server.logged('request completed')
    t.strictSame(errorLines(server), logged)
    t.notOk(server.logs.some(line => line.msg === 'stream closed'), 'no line of ours')
    t.equal(server.outcomes.length, 1)
    return headers
  }

  const teapot = { statusCode: 418, code: 'TEAPOT', error: "I'm a Teapot", message: 'short and stout' }

  t.test('of the source: it has the status of the error, and is logged by Fastify alone', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing()))
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
    t.match((await server.outcome()).error, { code: 'TEAPOT' })
  })

  t.test('of a source function that throws', async t => {
    const server = await serve(t, (request, reply) => reply.sse(() => { throw new Teapot('short and stout') }))
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('of a source function that rejects', async t => {
    const server = await serve(t, (request, reply) => reply.sse(async () => { throw new Error('boom') }))
    await isOrdinary(t, server, 500, { statusCode: 500, error: 'Internal Server Error', message: 'boom' }, [[50, 'boom']])
  })

  t.test('of a first item that is no event', async t => {
    const server = await serve(t, (request, reply) => reply.sse([1]))
    const message = "An event must be a string or an event object; wrap the value as { data: value }, got 'a number'"
    await isOrdinary(t, server, 500, {
      statusCode: 500, code: 'FST_STREAM_INVALID_EVENT', error: 'Internal Server Error', message
    }, [[50, message]])
  })

  t.test('of a source that throws what is no Error: it becomes the cause of one', async t => {
    const server = await serve(t, (request, reply) => reply.sse((async function * () { throw 'boom' })())) // eslint-disable-line no-throw-literal
    await isOrdinary(t, server, 500, {
      statusCode: 500, code: 'FST_STREAM_SOURCE_FAILED', error: 'Internal Server Error', message: 'The source of the stream failed'
    }, [[50, 'The source of the stream failed']])
    t.equal((await server.outcome()).error, 'boom')
  })

  t.test('of a source that throws undefined', async t => {
    const server = await serve(t, (request, reply) => reply.sse((async function * () { throw undefined })())) // eslint-disable-line no-throw-literal
    await isOrdinary(t, server, 500, {
      statusCode: 500, code: 'FST_STREAM_SOURCE_FAILED', error: 'Internal Server Error', message: 'The source of the stream failed'
    }, [[50, 'The source of the stream failed']])
  })

  t.test('of a handler that throws after it has called reply.sse()', async t => {
    const server = await serve(t, async (request, reply) => {
      reply.sse(silence)
      throw new Teapot('short and stout')
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('of a handler that is not async and throws', async t => {
    const server = await serve(t, (request, reply) => {
      reply.sse(silence)
      throw new Teapot('short and stout')
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('of a handler that throws what is no Error: setErrorHandler gets it as it is', async t => {
    const caught: unknown[] = []
    const server = await serve(t, async (request, reply) => {
      reply.sse(silence)
      throw 'boom' // eslint-disable-line no-throw-literal
    }, {}, app => {
      app.setErrorHandler((error, request, reply) => { caught.push(error); return reply.code(400).send({ error }) })
    })
    await isOrdinary(t, server, 400, { error: 'boom' }, [])
    t.strictSame(caught, ['boom'])
  })

  t.test('of a handler that throws undefined', async t => {
    const server = await serve(t, async (request, reply) => {
      reply.sse(silence)
      throw undefined // eslint-disable-line no-throw-literal
    })
    await isOrdinary(t, server, 500, {
      statusCode: 500, code: 'FST_STREAM_SOURCE_FAILED', error: 'Internal Server Error', message: 'The source of the stream failed'
    }, [[50, 'The source of the stream failed']])
  })

  t.test('of a handler that sends an Error', async t => {
    const server = await serve(t, (request, reply) => {
      reply.sse(silence)
      reply.send(new Teapot('short and stout'))
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('headers that the handler has set stay, as with any reply', async t => {
    const server = await serve(t, (request, reply) => reply.header('cache-control', 'private').header('x-mine', '1').sse(failing()))
    const { head } = await fetchRaw(t, server.port)
    t.match(headersOf(head), { 'cache-control': 'private', 'x-mine': '1' })
  })

  t.test('onError hooks run, once', async t => {
    const seen: string[] = []
    const server = await serve(t, (request, reply) => reply.sse(failing()), {}, app => {
      app.addHook('onError', async (request, reply, error) => { seen.push(error.message) })
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
    t.strictSame(seen, ['short and stout'])
  })

  t.test('setErrorHandler may send an object', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing()), {}, app => {
      app.setErrorHandler((error: Teapot, request, reply) => reply.code(error.statusCode).send({ mine: error.message }))
    })
    await isOrdinary(t, server, 418, { mine: 'short and stout' }, [])
  })

  t.test('setErrorHandler may be async and return an object', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing()), {}, app => {
      app.setErrorHandler(async (error: Teapot, request, reply) => {
        await turn(2)
        reply.code(error.statusCode)
        return { mine: error.message }
      })
    })
    await isOrdinary(t, server, 418, { mine: 'short and stout' }, [])
  })

  t.test('setErrorHandler may throw', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing()), {}, app => {
      app.setErrorHandler(() => { throw new Error('worse') })
    })
    await isOrdinary(t, server, 500, { statusCode: 500, error: 'Internal Server Error', message: 'worse' }, [[50, 'worse']])
  })

  for (const where of ['before', 'after'] as const) {
    t.test(`of a source that fails while an async onSend hook, registered ${where} the plugin, is running`, async t => {
      const running = deferred()
      const hold = deferred()
      const source = deferred()
      let runs = 0
      const hook = async () => {
        if (++runs > 1) return
        running.resolve()
        await hold.promise
      }
      const server = await serve(t, (request, reply) => reply.sse(async () => { await source.promise }),
        { before: app => { if (where === 'before') app.addHook('onSend', hook) } },
        app => {
          if (where === 'after') app.addHook('onSend', hook)
          app.setErrorHandler((error: Teapot, request, reply) => reply.code(error.statusCode).send({ mine: error.message }))
        })
      running.promise.then(async () => {
        source.reject(new Teapot('short and stout'))
        await turn()
        hold.resolve()
      })
      await isOrdinary(t, server, 418, { mine: 'short and stout' }, [])
    })
  }

  t.test('of an onSend hook that throws', async t => {
    let isFirst = true
    const server = await serve(t, (request, reply) => reply.sse(['x']), {}, app => {
      app.addHook('onSend', (request, reply, payload, done) => {
        if (!isFirst) return done()
        isFirst = false
        throw new Teapot('short and stout')
      })
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('of an async onSend hook that rejects, after which the source is released', async t => {
    let isFirst = true
    const released = deferred()
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      try { yield 'x'; yield 'y' } finally { released.resolve() }
    })()), {}, app => {
      app.addHook('onSend', async () => {
        if (!isFirst) return
        isFirst = false
        await turn()
        throw new Teapot('short and stout')
      })
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
    await released.promise
  })

  t.test('of a header that Node refuses, set by the handler', async t => {
    const server = await serve(t, (request, reply) => reply.header('x-bad', 'a\nb').sse(['x']), {}, app => {
      app.setErrorHandler((error: Error, request, reply) => reply.removeHeader('x-bad').code(500).send({ mine: error.message }))
    })
    await isOrdinary(t, server, 500, { mine: 'Invalid character in header content ["x-bad"]' }, [])
  })

  t.test('of a header that Node refuses, set by the handler and left there by setErrorHandler', async t => {
    const server = await serve(t, (request, reply) => reply.header('x-bad', 'a\nb').sse(['x']))
    const reply = await fetchRaw(t, server.port)
    t.match(reply.head, /^HTTP\/1\.1 500 /)
    t.match(await server.outcome(), { reason: 'failed', error: { code: 'ERR_INVALID_CHAR' } })
  })

  t.test('of an onSend hook that rejects after the source has ended', async t => {
    let isFirst = true
    const server = await serve(t, (request, reply) => reply.sse([]), {}, app => {
      app.addHook('onSend', async () => {
        if (!isFirst) return
        isFirst = false
        await turn()
        throw new Teapot('short and stout')
      })
    })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('of a header that Node refuses, set by a hook that is not async', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x']), {}, app => {
      app.addHook('onSend', (request, reply, payload, done) => {
        if (reply.getHeader('content-type') === 'text/event-stream') reply.header('x-bad', 'a\nb')
        else reply.removeHeader('x-bad')
        done()
      })
    })
    const reply = await fetchRaw(t, server.port)
    t.match(reply.head, /^HTTP\/1\.1 500 /)
    t.match(JSON.parse(reply.body), { code: 'ERR_INVALID_CHAR' })
    t.match(await server.outcome(), { reason: 'failed', error: { code: 'ERR_INVALID_CHAR' } })
  })

  for (const status of [200, 204]) {
    t.test(`of a header that Node refuses on a ${status} without a body`, async t => {
      const server = await serve(t, (request, reply) => reply.code(status).sse(['x']), {}, app => {
        app.addHook('onSend', (request, reply, payload, done) => {
          if (reply.statusCode === status) reply.header('x-bad', 'a\nb')
          else reply.removeHeader('x-bad')
          done()
        })
      })
      const reply = await fetchRaw(t, server.port, { method: 'HEAD' })
      t.match(reply.head, /^HTTP\/1\.1 500 /)
      t.match(await server.outcome(), { reason: 'failed', error: { code: 'ERR_INVALID_CHAR' } })
    })
  }

  t.test('of a handler that throws while the hooks of its stream run: retry and events are nowhere on the reply', async t => {
    const server = await serve(t, (request, reply) => {
      reply.sse(['x'], { retry: 1 })
      throw new Teapot('short and stout')
    }, { before: app => { app.addHook('onSend', async () => { await turn() }) } })
    await isOrdinary(t, server, 418, teapot, [[30, 'short and stout']])
  })

  t.test('handlerTimeout before the head gives 503', { skip: hasHandlerTimeout ? false : 'this Fastify has no handlerTimeout' }, async t => {
    const server = await serve(t, silence, {}, app => {
      app.get('/slow', { handlerTimeout: 20 }, (request, reply) => reply.sse(silence, { commitAfter: Infinity }))
    })
    const reply = await fetchRaw(t, server.port, { path: '/slow' })
    t.match(reply.head, /^HTTP\/1\.1 503 /)
    t.match(JSON.parse(reply.body), { code: 'FST_ERR_HANDLER_TIMEOUT' })
    t.match(await server.outcome(), { reason: 'failed', error: { code: 'FST_ERR_HANDLER_TIMEOUT' } })
  })

  t.test('reply.trailer() is refused', async t => {
    const server = await serve(t, (request, reply) => {
      reply.trailer('etag', async () => 'x')
      return reply.sse(['x'])
    })
    const reply = await fetchRaw(t, server.port)
    t.match(reply.head, /^HTTP\/1\.1 500 /)
    t.match(reply.head, /\r\ncontent-length: \d+/)
    t.notMatch(reply.head, /trailer:|transfer-encoding/i)
    t.match(JSON.parse(reply.body), { code: 'FST_STREAM_TRAILER' })
    t.match(await server.outcome(), { reason: 'failed', error: { code: 'FST_STREAM_TRAILER' } })
  })

  t.test('reply.trailer() is refused once, whatever the source waits for', async t => {
    for (const hook of [undefined, async () => { await turn() }]) {
      let errors = 0
      const server = await serve(t, (request, reply) => {
        reply.trailer('etag', async () => 'x')
        return reply.sse(silence)
      }, {
        before: app => {
          if (hook !== undefined) app.addHook('onSend', hook)
          app.addHook('onError', async () => { errors++ })
        }
      })
      const client = open(t, server.port, { headers: ['Connection: keep-alive'] })
      await client.until('FST_STREAM_TRAILER')
      client.write('GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n')
      t.equal((await client.end()).split('HTTP/1.1 500 ').length, 3, 'the connection is there for the next')
      t.equal(errors, 2)
    }
  })

  t.test('reply.trailer() of a hook is refused', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x']), {}, app => {
      app.addHook('onSend', async (request, reply) => {
        if (reply.statusCode === 200) reply.trailer('etag', async () => 'x')
      })
    })
    const reply = await fetchRaw(t, server.port)
    t.match(reply.head, /^HTTP\/1\.1 500 /)
    t.match(reply.head, /\r\ncontent-length: \d+/)
    t.notMatch(reply.head, /trailer:|transfer-encoding/i)
    t.match(JSON.parse(reply.body), { code: 'FST_STREAM_TRAILER' })
  })

  t.test('a trailer that was removed again is no trailer', async t => {
    const server = await serve(t, (request, reply) => {
      reply.trailer('etag', async () => 'x')
      reply.removeTrailer('etag')
      return reply.sse(['x'])
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
  })

  t.test('a client that leaves before the head makes no reply and no error', async t => {
    const server = await serve(t, (request, reply) => reply.sse(silence, { commitAfter: Infinity }))
    const client = open(t, server.port)
    await server.logged('incoming request')
    client.destroy()
    t.match(await server.outcome(), { reason: 'disconnected', events: 0, bytes: 0 })
    t.strictSame(troubles(server), [])
  })

  t.test('a client that left before reply.sse() was called settles the promise, and its source is released', async t => {
    const gone = deferred()
    const calls: string[] = []
    const source = { [Symbol.iterator]: () => ({ next: () => { calls.push('next'); return { done: false, value: 'x' } }, return: () => { calls.push('return'); return { done: true, value: undefined } } }) }
    const server = await serve(t, async (request, reply) => {
      reply.raw.once('close', () => gone.resolve())
      await gone.promise
      return await reply.sse(source as Iterable<string>)
    })
    const client = open(t, server.port)
    await server.logged('incoming request')
    client.destroy()
    t.match(await server.outcome(), { reason: 'disconnected' })
    t.strictSame(calls, ['return'])
    t.strictSame(troubles(server), [])
  })
})

t.test('after the head Fastify lets the stream be', async t => {
  t.test('handlerTimeout no longer applies', { skip: hasHandlerTimeout ? false : 'this Fastify has no handlerTimeout' }, async t => {
    const server = await serve(t, silence, {}, app => {
      app.get('/slow', { handlerTimeout: 50 }, async (request, reply) => {
        const stream = await reply.sse()
        request.signal.addEventListener('abort', () => stream.close())
        // Longer than handlerTimeout, by the same clock.
        setTimeout(() => { stream.send('late').then(() => stream.close()) }, 150)
      })
    })
    const { body, isWhole } = await fetchRaw(t, server.port, { path: '/slow' })
    t.equal(body, 'data: late\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'closed', events: 1 })
  })

  t.test('connectionTimeout does not cut it', async t => {
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      setTimeout(() => { stream.send('late').then(() => stream.close()) }, 150)
    }, { fastify: { connectionTimeout: 50 } })
    const { body, isWhole } = await fetchRaw(t, server.port)
    t.equal(body, 'data: late\n\n')
    t.ok(isWhole)
  })

  t.test('connectionTimeout holds again for the next request of the connection', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x')), { fastify: { connectionTimeout: 1234 } }, app => {
      app.get('/timeout', async request => ({ timeout: request.socket.timeout }))
    })
    const client = open(t, server.port, { headers: ['Connection: keep-alive'] })
    await client.until('0\r\n\r\n')
    client.write('GET /timeout HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n')
    t.match(await client.end(), /\{"timeout":1234\}$/)
  })
})

t.test('whatever the handler does with the promise', async t => {
  const handlers: Record<string, (request: FastifyRequest, reply: FastifyReply) => unknown> = {
    'a handler that is not async and returns nothing': (request, reply) => { reply.sse(slow()) },
    'an async handler that forgets to return': async (request, reply) => { reply.sse(slow()) },
    'an async handler that awaits': async (request, reply) => { await reply.sse(slow()) },
    'an async handler that returns': async (request, reply) => reply.sse(slow()),
    'an async handler that returns reply': async (request, reply) => { reply.sse(slow()); return reply }
  }

  async function * slow (): AsyncGenerator<string> {
    await turn(3)
    yield 'x'
  }

  for (const [name, handler] of Object.entries(handlers)) {
    t.test(`${name} gives the stream, and neither a second reply nor a warning`, async t => {
      const server = await serve(t, handler as never)
      const { head, body } = await fetchRaw(t, server.port)
      t.equal(withoutDate(head), eventStreamHead)
      t.equal(body, 'data: x\n\n')
      t.match(await server.outcome(), { reason: 'completed', events: 1, bytes: 9 })
      await server.logged('request completed')
      t.strictSame(troubles(server), [])
    })

    t.test(`${name} gives the error`, async t => {
      const server = await serve(t, (request, reply) => {
        const sse = reply.sse.bind(reply) as (...args: unknown[]) => never
        reply.sse = (() => sse(failing())) as never
        return handler(request, reply)
      })
      const { head } = await fetchRaw(t, server.port)
      t.match(head, /^HTTP\/1\.1 418 /)
      t.match(await server.outcome(), { reason: 'failed' })
      t.strictSame(troubles(server), [])
    })
  }

  t.test('onSend hooks run once, also when the handler forgets to return', async t => {
    let runs = 0
    const server = await serve(t, async (request, reply) => { reply.sse(slow()) }, {}, app => {
      app.addHook('onSend', async () => { runs++ })
    })
    await fetchRaw(t, server.port)
    await server.outcome()
    t.equal(runs, 1)
  })

  t.test('a value returned before the head is not sent: the stream goes on, with a warning', async t => {
    const server = await serve(t, async (request, reply) => { reply.sse(slow()); return { a: 1 } })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
    t.match(server.logs.filter(line => line.level >= 40), [
      { level: 40, msg: 'reply.send() is ignored on a reply that streams', err: { code: 'FST_STREAM_ALREADY_STREAMING' } }
    ])
  })

  t.test('a value returned by a handler that is not async is not sent', async t => {
    const server = await serve(t, (request, reply) => { reply.sse(slow()); return { a: 1 } })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.strictSame(troubles(server), ['reply.send() is ignored on a reply that streams'])
  })

  t.test('a value returned after the head is not sent', async t => {
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      await stream.send('x')
      setImmediate(() => stream.close())
      return { a: 1 }
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.match(await server.outcome(), { reason: 'closed' })
  })

  t.test('a handler that throws after await reply.sse() ends the stream as a source that throws', async t => {
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      await stream.send('x')
      throw new Teapot('short and stout')
    })
    const { head, body, isWhole } = await fetchRaw(t, server.port)
    t.match(head, /^HTTP\/1\.1 200 OK/)
    t.equal(body, 'data: x\n\nevent: error\ndata: {"code":"TEAPOT","message":"short and stout"}\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'failed', events: 1, error: { code: 'TEAPOT' } })
    t.strictSame(troubles(server), ['stream closed'])
  })

  t.test('a handler that throws what is no Error after await reply.sse() does so too', async t => {
    const server = await serve(t, async (request, reply) => {
      await reply.sse()
      throw 'boom' // eslint-disable-line no-throw-literal
    })
    t.equal((await fetchRaw(t, server.port)).body,
      'event: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
    t.match(await server.outcome(), { reason: 'failed', error: 'boom' })
  })

  t.test('a handler that throws undefined after await reply.sse() does so too', async t => {
    const server = await serve(t, async (request, reply) => {
      await reply.sse()
      throw undefined // eslint-disable-line no-throw-literal
    })
    t.equal((await fetchRaw(t, server.port)).body,
      'event: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
    t.match(await server.outcome(), { reason: 'failed' })
  })

  t.test('a handler that throws once its stream has ended is logged, and changes nothing', async t => {
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      stream.close()
      throw new Error('too late')
    })
    const { body, isWhole } = await fetchRaw(t, server.port)
    t.equal(body, '')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'closed' })
    t.match(server.logs.filter(line => line.level >= 40), [{ level: 50, err: { message: 'too late' } }])
  })

  t.test('a preHandler hook may stream and return reply: the handler does not run', async t => {
    let ran = false
    const server = await serve(t, async () => { ran = true; return 'handler' }, {}, app => {
      app.addHook('preHandler', async (request, reply) => {
        reply.sse(slow())
        return reply
      })
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
    await turn(2)
    t.notOk(ran)
    t.strictSame(troubles(server), [])
  })

  t.test('a preHandler hook may stream an endless source and return reply', async t => {
    let ran = false
    const server = await serve(t, async () => { ran = true; return 'handler' }, {}, app => {
      app.addHook('preHandler', async (request, reply) => {
        reply.sse(silence)
        return reply
      })
    })
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    client.destroy()
    t.match(await server.outcome(), { reason: 'disconnected' })
    await turn(2)
    t.notOk(ran)
    t.strictSame(troubles(server), [])
  })

  t.test('a preHandler hook may await the stream', async t => {
    let ran = false
    const server = await serve(t, async () => { ran = true; return 'handler' }, {}, app => {
      app.addHook('preHandler', async (request, reply) => { await reply.sse(slow()) })
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    await server.outcome()
    await turn(2)
    t.notOk(ran)
    t.strictSame(troubles(server), [])
  })

  t.test('a preHandler hook that calls back may stream', async t => {
    const server = await serve(t, async () => 'handler', {}, app => {
      app.addHook('preHandler', (request, reply, _done) => { reply.sse(slow()) })
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
  })
})

t.test('one stream a reply', async t => {
  function twice (t: Test, reply: FastifyReply, calls: string[]): void {
    const source = {
      [Symbol.iterator]: () => ({
        next: () => { calls.push('next'); return { done: true, value: undefined } },
        return: () => { calls.push('return'); return { done: true, value: undefined } }
      })
    }
    t.throws(() => reply.sse(source as Iterable<string>), { code: 'FST_STREAM_ALREADY_STREAMING' })
  }

  t.test('a second sse throws at once, before the head; its source is released, and the first goes on', async t => {
    const calls: string[] = []
    const server = await serve(t, async (request, reply) => {
      const outcome = reply.sse((async function * () { await turn(2); yield 'x' })())
      twice(t, reply, calls)
      return await outcome
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
    t.strictSame(calls, ['return'])
    t.equal(server.outcomes.length, 1)
    t.strictSame(troubles(server), [])
  })

  t.test('a second sse throws at once, after the head', async t => {
    const calls: string[] = []
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      twice(t, reply, calls)
      t.throws(() => reply.sse(), { code: 'FST_STREAM_ALREADY_STREAMING' })
      await stream.send('x')
      stream.close()
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    t.strictSame(calls, ['return'])
  })

  t.test('a second sse after the first has closed throws', async t => {
    const calls: string[] = []
    const server = await serve(t, async (request, reply) => {
      await reply.sse(['x'])
      twice(t, reply, calls)
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
    await server.outcome()
    t.strictSame(calls, ['return'])
  })

  t.test('sse after reply.send() throws at once, and what was sent goes out', async t => {
    const calls: string[] = []
    const server = await serve(t, (request, reply) => {
      reply.send('sent')
      twice(t, reply, calls)
    })
    const { body } = await fetchRaw(t, server.port)
    t.equal(body, 'sent')
    t.strictSame(calls, ['return'])
    t.strictSame(server.outcomes, [])
    t.strictSame(troubles(server), [])
  })

  t.test('sse after reply.send() throws while an async onSend hook is running', async t => {
    const calls: string[] = []
    const server = await serve(t, (request, reply) => {
      reply.send('sent')
      twice(t, reply, calls)
    }, {}, app => { app.addHook('onSend', async () => { await turn(2) }) })
    const { body } = await fetchRaw(t, server.port)
    t.equal(body, 'sent')
    t.strictSame(calls, ['return'])
    t.strictSame(server.outcomes, [])
    t.strictSame(troubles(server), [])
  })

  t.test('sse after reply.send() is closed when a hook of an earlier plugin is still running', async t => {
    const released = deferred()
    const server = await serve(t, (request, reply) => {
      reply.send('sent')
      return reply.sse((async function * () { try { yield 'x'; yield 'y' } finally { released.resolve() } })())
    }, { before: app => { app.addHook('onSend', async () => { await turn(2) }) } })
    const { body } = await fetchRaw(t, server.port)
    t.equal(body, 'sent')
    await released.promise
    t.match(await server.outcome(), { reason: 'closed', events: 0, bytes: 0 })
  })

  t.test('sse after a stream was sent throws while that has written nothing yet', async t => {
    const { Readable } = await import('node:stream')
    const calls: string[] = []
    const first = deferred()
    const server = await serve(t, (request, reply) => {
      reply.send(Readable.from((async function * () { await first.promise; yield 'sent' })()))
      twice(t, reply, calls)
      first.resolve()
    })
    t.equal((await fetchRaw(t, server.port)).body, 'sent')
    t.strictSame(calls, ['return'])
    t.strictSame(troubles(server), [])
  })

  t.test('sse after reply.hijack() throws', async t => {
    const calls: string[] = []
    const server = await serve(t, (request, reply) => {
      reply.hijack()
      twice(t, reply, calls)
      reply.raw.end('raw')
    })
    t.equal((await fetchRaw(t, server.port)).body, 'raw')
    t.strictSame(calls, ['return'])
  })

  t.test('setErrorHandler may stream an error that was sent', async t => {
    const server = await serve(t, async () => { throw new Error('boom') }, {}, app => {
      app.setErrorHandler((error: Error, request, reply) => reply.code(200).sse([error.message]))
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: boom\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
  })

  t.test('setErrorHandler may stream the error of an onSend hook, which has taken back what was sent', async t => {
    let isFirst = true
    const server = await serve(t, async () => 'sent', {}, app => {
      app.addHook('onSend', async () => {
        if (!isFirst) return
        isFirst = false
        throw new Error('boom')
      })
      app.setErrorHandler((error: Error, request, reply) => reply.code(200).sse([error.message]))
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: boom\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
  })

  t.test('setErrorHandler may stream the error of a stream', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing()), {}, app => {
      app.setErrorHandler((error: Error, request, reply) => reply.code(200).sse([error.message]))
    })
    const { head, body } = await fetchRaw(t, server.port)
    t.equal(withoutDate(head), wholeHead(23))
    t.equal(body, 'data: short and stout\n\n')
    t.match(await server.outcome(1), { reason: 'completed' })
    t.strictSame(server.outcomes.map(({ reason }) => reason).sort(), ['completed', 'failed'])
  })
})

t.test('replies without a body', async t => {
  function unread (calls: string[]): AsyncIterable<string> {
    return {
      [Symbol.asyncIterator]: () => ({
        next: async () => { calls.push('next'); return { done: false, value: 'x' } },
        return: async () => { calls.push('return'); return { done: true, value: undefined } }
      })
    }
  }

  for (const own of [false, true]) {
    t.test(`HEAD, by ${own ? 'a route of its own' : 'the route that Fastify makes'}, gets the head; the source is not started`, async t => {
      const calls: string[] = []
      const server = await serve(t, (request, reply) => reply.sse(unread(calls)), {
        fastify: { exposeHeadRoutes: !own }
      }, app => { if (own) app.head('/', (request, reply) => reply.sse(unread(calls))) })
      const { text } = await fetchRaw(t, server.port, { method: 'HEAD' })
      t.equal(withoutDate(text), eventStreamHead.replace('\r\nTransfer-Encoding: chunked', '') + '\r\n\r\n')
      t.match(await server.outcome(), { reason: 'completed', events: 0, bytes: 0 })
      t.strictSame(calls, ['return'])
      t.strictSame(troubles(server), [])
    })
  }

  t.test('HEAD does not call a source function', async t => {
    let called = false
    const server = await serve(t, (request, reply) => reply.sse(() => { called = true }))
    await fetchRaw(t, server.port, { method: 'HEAD' })
    await server.outcome()
    t.notOk(called)
  })

  t.test('HEAD gives await reply.sse() a stream that has closed', async t => {
    const seen: unknown[] = []
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      seen.push(stream.isOpen, stream.signal.aborted, await stream.send('x'), (await stream.closed).reason)
    })
    await fetchRaw(t, server.port, { method: 'HEAD' })
    await server.outcome()
    await eventually(() => seen.length > 0)
    t.strictSame(seen, [false, true, false, 'completed'])
  })

  t.test('HEAD has the headers of the hooks', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x']), {}, app => {
      app.addHook('onSend', async (request, reply) => { reply.header('x-hook', '1') })
    })
    const { head } = await fetchRaw(t, server.port, { method: 'HEAD' })
    t.equal(headersOf(head)['x-hook'], '1')
  })

  for (const status of [204, 304]) {
    t.test(`${status} sends no body: the source is released unread, the outcome is completed`, async t => {
      const calls: string[] = []
      const server = await serve(t, (request, reply) => reply.code(status).sse(unread(calls), { retry: 7 }))
      const { text } = await fetchRaw(t, server.port)
      t.equal(withoutDate(text), `HTTP/1.1 ${status} ${status === 204 ? 'No Content' : 'Not Modified'}\r\nConnection: close\r\n\r\n`)
      t.match(await server.outcome(), { reason: 'completed', events: 0, bytes: 0 })
      t.strictSame(calls, ['return'])
      t.strictSame(troubles(server), [])
    })
  }

  t.test('a hook that makes it a 204 takes the body away: closed, and the source is released', async t => {
    const released = deferred()
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      try { yield 'x'; yield 'y' } finally { released.resolve() }
    })()), {}, app => { app.addHook('onSend', async (request, reply) => { reply.code(204) }) })
    const { text } = await fetchRaw(t, server.port)
    t.match(text, /^HTTP\/1\.1 204 No Content\r\n/)
    t.match(text, /\r\n\r\n$/)
    await released.promise
    t.match(await server.outcome(), { reason: 'closed', events: 0, bytes: 0 })
    t.strictSame(troubles(server), [])
  })
})

t.test('log lines and hooks of a stream', async t => {
  function streamLines ({ logs }: TestServer): Array<[number, string, string]> {
    return logs.filter(line => line.stream !== undefined).map(line => [line.level, line.msg, line.stream?.reason ?? ''])
  }

  t.test('a completed stream has one line of ours, beside those of Fastify', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x']))
    await fetchRaw(t, server.port)
    const line = await server.logged('stream closed')
    await server.logged('request completed')
    t.match(line, { level: 30, stream: { kind: 'sse', reason: 'completed', events: 1, bytes: 9, duration: Number } })
    t.notOk('err' in line)
    t.strictSame(server.logs.map(({ msg }) => msg).filter(msg => !/^Server listening/.test(msg)).sort(),
      ['incoming request', 'request completed', 'stream closed'])
  })

  t.test('a client that leaves has one line of ours, and none of core', async t => {
    const server = await serve(t, (request, reply) => reply.sse(silence))
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    client.destroy()
    await server.outcome()
    await turn(2)
    t.match(await server.logged('stream closed'), { level: 30, stream: { reason: 'disconnected' } })
    t.strictSame(server.logs.map(({ msg }) => msg).filter(msg => !/^Server listening/.test(msg)),
      ['incoming request', 'stream closed'])
  })

  t.test('onResponse runs when the response has finished, not before', async t => {
    const order: string[] = []
    const hold = deferred()
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      yield 'x'
      await hold.promise
      order.push('source ends')
    })()), {}, app => {
      app.addHook('onResponse', async (request, reply) => { order.push(`onResponse ${reply.raw.writableFinished}`) })
    })
    const client = open(t, server.port)
    await client.until('data: x\n\n')
    await turn(3)
    t.strictSame(order, [])
    hold.resolve()
    await client.end()
    await server.outcome()
    t.strictSame(order, ['source ends', 'onResponse true'])
  })

  const mayDisableByFunction = (() => {
    try { return fastify({ disableRequestLogging: () => true }) !== undefined } catch { return false }
  })()
  const ways: Record<string, object> = {
    'disableRequestLogging: true': { disableRequestLogging: true },
    ...mayDisableByFunction && { 'a disableRequestLogging function': { disableRequestLogging: (request: FastifyRequest) => request.method === 'GET' } },
    ...LogController !== undefined && { 'a logController': { logController: new LogController({ disableRequestLogging: true }) } }
  }
  for (const [name, fastify] of Object.entries(ways)) {
    t.test(`${name} silences the line of a completed stream`, async t => {
      const server = await serve(t, (request, reply) => reply.sse(['x']), { fastify })
      await fetchRaw(t, server.port)
      await server.outcome()
      t.strictSame(streamLines(server), [])
    })

    t.test(`${name} does not silence a stream that failed`, async t => {
      const server = await serve(t, (request, reply) => reply.sse((function * () { yield 'x'; throw new Error('boom') })()), { fastify })
      await fetchRaw(t, server.port)
      t.match(await server.logged('stream closed'), { level: 40, stream: { reason: 'failed' }, err: { message: 'boom' } })
      t.equal(streamLines(server).length, 1)
    })
  }

  t.test('a disableRequestLogging function decides for each request', { skip: mayDisableByFunction ? false : 'this Fastify takes no function' }, async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x']), {
      fastify: { disableRequestLogging: request => request.method === 'GET' }
    })
    await fetchRaw(t, server.port, { method: 'POST' })
    t.match(await server.logged('stream closed'), { level: 30 })
  })
})

t.test('a handler that goes on after its call, before anything has left', async t => {
  t.test('and answers itself has closed the stream', async t => {
    const server = await serve(t, (request, reply) => {
      reply.sse(['x'])
      reply.hijack().raw.end('mine')
    })
    t.equal((await fetchRaw(t, server.port)).body, 'mine')
    t.match(await server.outcome(), { reason: 'closed', events: 0, bytes: 0 })
  })

  t.test('and throws while its source is open has given what came before, and an error event', async t => {
    const server = await serve(t, (request, reply) => {
      reply.sse(stream => { stream.send('x') })
      throw new Teapot('short and stout')
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\nevent: error\ndata: {"code":"TEAPOT","message":"short and stout"}\n\n')
    t.match(await server.outcome(), { reason: 'failed', events: 1 })
  })

  t.test('and sends something else is told that it is ignored', async t => {
    for (const stream of [(reply: FastifyReply) => reply.sse(['x']), (reply: FastifyReply) => reply.streamWriter(['data: x\n\n'])]) {
      const server = await serve(t, (request, reply) => {
        stream(reply)
        reply.send('y')
      })
      t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
      t.match(await server.outcome(), { reason: 'completed' })
      t.strictSame(troubles(server), ['reply.send() is ignored on a reply that streams'])
    }
  })

  t.test('and hijacks the reply still streams', async t => {
    for (const source of [['x'], soon('x')]) {
      const server = await serve(t, (request, reply) => {
        reply.sse(source)
        reply.hijack()
      })
      t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
      t.match(await server.outcome(), { reason: 'completed', events: 1, bytes: 9 })
      t.strictSame(troubles(server), [])
    }
  })

  t.test('and wants no body gets none', async t => {
    const server = await serve(t, (request, reply) => {
      reply.sse(['x'])
      reply.code(204)
    })
    const { head, body } = await fetchRaw(t, server.port)
    t.match(head, /^HTTP\/1\.1 204 /)
    t.equal(body, '')
    t.match(await server.outcome(), { reason: 'closed', events: 0, bytes: 0 })
  })
})

t.test('a head that the handler has sent itself stays, and the stream follows', async t => {
  const server = await serve(t, (request, reply) => {
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    return reply.sse(['x'])
  })
  t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
  t.match(await server.outcome(), { reason: 'completed', events: 1 })
})

t.test('a transfer-encoding that the handler has copied from somewhere is not sent beside a length', async t => {
  const { port } = await serve(t, (request, reply) => reply.header('transfer-encoding', 'chunked').sse(['x']))
  const { head, body } = await fetchRaw(t, port)
  t.notMatch(head, /transfer-encoding/i)
  t.equal(body, 'data: x\n\n')
})

t.test('a handler may return the open stream', async t => {
  const server = await serve(t, async (request, reply) => {
    const stream = await reply.sse()
    setImmediate(() => { stream.send('x').then(stream.close) })
    return stream
  })
  t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
  await server.outcome()
  t.strictSame(troubles(server), [])
})

t.test('a context that was made before the plugin was registered', async t => {
  t.test('a short source is sent', async t => {
    const { port } = await early(t, reply => reply.sse(['x']))
    t.equal((await fetchRaw(t, port)).body, 'data: x\n\n')
  })

  t.test('a header that Node refuses is an ordinary error', async t => {
    for (const source of [['x'], silence]) {
      const { port } = await early(t, reply => reply.header('x-bad', 'a\nb').sse(source as string[]))
      t.match((await fetchRaw(t, port)).head, /^HTTP\/1\.1 500 /)
    }
  })

  /** A server whose route stands in a context that was there first. */
  async function early (t: Test, handle: (reply: FastifyReply) => unknown): Promise<{ port: number }> {
    const app = fastify()
    t.teardown(async () => { await app.close() })
    app.register(async child => { child.get('/', (request, reply) => handle(reply)) })
    app.register(streaming)
    await app.listen({ port: 0, host: '127.0.0.1' })
    return { port: (app.server.address() as AddressInfo).port }
  }
})
