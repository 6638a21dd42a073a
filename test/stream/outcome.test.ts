import '../fixtures/guard.ts'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { eventually, turn } from '../fixtures/clock.ts'
import { fetchRaw, open } from '../fixtures/raw.ts'
import { needsDrain, serve } from '../fixtures/server.ts'
import type { EventStream, StreamOutcome } from '../../lib/index.ts'

/** Yields one event, and throws once the client has it. */
async function * failing (error: unknown) {
  yield 'one'
  await turn(3)
  throw error
}

const query = (request: FastifyRequest<any>) => request.query as Record<string, string>

const internal = 'event: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n'

t.test('a source that throws after the head', async t => {
  const errors: Record<string, [error: unknown, data: object]> = {
    'an error of its own': [Object.assign(new Error('secret'), { code: 'SECRET' }), { code: 'FST_STREAM_SOURCE_FAILED', message: 'Internal Server Error' }],
    'an error with statusCode 500': [Object.assign(new Error('secret'), { code: 'SECRET', statusCode: 500 }), { code: 'FST_STREAM_SOURCE_FAILED', message: 'Internal Server Error' }],
    'an error with statusCode 499': [Object.assign(new Error('no such thing\n\ndata: forged'), { code: 'NOT_FOUND', statusCode: 499 }), { code: 'NOT_FOUND', message: 'no such thing\n\ndata: forged' }],
    'an error with expose': [Object.assign(new Error('full'), { code: 'FULL', statusCode: 503, expose: true }), { code: 'FULL', message: 'full' }],
    'an exposed error without code': [Object.assign(new Error('gone'), { statusCode: 410 }), { code: 'FST_STREAM_SOURCE_FAILED', message: 'gone' }],
    'a string': ['secret', { code: 'FST_STREAM_SOURCE_FAILED', message: 'Internal Server Error' }],
    undefined: [undefined, { code: 'FST_STREAM_SOURCE_FAILED', message: 'Internal Server Error' }],
    null: [null, { code: 'FST_STREAM_SOURCE_FAILED', message: 'Internal Server Error' }]
  }
  for (const [name, [error, data]] of Object.entries(errors)) {
    t.test(`${name}: the client gets ${JSON.stringify(data)}, then the end`, async t => {
      const { port, outcome } = await serve(t, (request, reply) => reply.sse(failing(error)))
      const { body, isWhole } = await fetchRaw(t, port)
      t.equal(body, `data: one\n\nevent: error\ndata: ${JSON.stringify(data)}\n\n`)
      t.equal(isWhole, true)
      const { reason, error: cause, events, bytes } = await outcome()
      t.same({ reason, events, bytes }, { reason: 'failed', events: 1, bytes: body.length })
      t.equal(cause, error)
    })
  }

  t.test('the cause is logged once, in the stream closed line, at warn', async t => {
    const { port, logs, logged } = await serve(t, (request, reply) => reply.sse(failing(new Error('secret'))), { fastify: { disableRequestLogging: true } })
    await fetchRaw(t, port)
    await logged('stream closed')
    await turn(3)
    t.match(logs.filter(line => JSON.stringify(line).includes('secret')), [{ level: 40, msg: 'stream closed', err: { message: 'secret' } }])
    t.equal(logs.filter(line => JSON.stringify(line).includes('secret')).length, 1)
  })

  t.test('an invalid item of a source counts as the source throwing, and the source is released', async t => {
    let isReleased = false
    const { port, outcome } = await serve(t, (request, reply) => reply.sse((async function * () {
      try {
        yield 'one'
        await turn(3)
        yield { name: 'Ada' }
      } finally {
        isReleased = true
      }
    })()))
    t.equal((await fetchRaw(t, port)).body, `data: one\n\n${internal}`)
    t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_EVENT', message: /name/ } })
    t.equal(isReleased, true)
  })

  t.test('a function that rejects after the head is such a source', async t => {
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(async stream => {
      await stream.send('one')
      await turn(3)
      throw new Error('broken')
    }))
    t.equal((await fetchRaw(t, port)).body, `data: one\n\n${internal}`)
    t.match(await outcome(), { reason: 'failed', error: { message: 'broken' }, events: 1 })
  })

  t.test('onError', async t => {
    t.test('gets the error and the request, and its event replaces ours', async t => {
      const calls: unknown[][] = []
      const error = new Error('broken')
      const { port, outcome } = await serve(t, (request, reply) => reply.sse(failing(error), {
        onError: (...args) => { calls.push([args[0], args[1] === request]); return { event: 'oops', id: 7, data: { again: true } } }
      }))
      t.equal((await fetchRaw(t, port)).body, 'data: one\n\nevent: oops\nid: 7\ndata: {"again":true}\n\n')
      t.same(calls, [[error, true]])
      t.match(await outcome(), { reason: 'failed', events: 1 })
    })

    t.test('of the call replaces that of the plugin', async t => {
      const { port } = await serve(t, (request, reply) => reply.sse(failing(new Error('broken')), { onError: () => ({ data: 'call' }) }), {
        streaming: { onError: () => { t.fail('both ran'); return { data: 'plugin' } } }
      })
      t.equal((await fetchRaw(t, port)).body, 'data: one\n\ndata: call\n\n')
    })

    t.test('of the plugin is the default', async t => {
      const { port } = await serve(t, (request, reply) => reply.sse(failing(new Error('broken'))), { streaming: { onError: () => ({ data: 'plugin' }) } })
      t.equal((await fetchRaw(t, port)).body, 'data: one\n\ndata: plugin\n\n')
    })

    t.test('may return null: the stream ends without an event', async t => {
      const { port, outcome } = await serve(t, (request, reply) => reply.sse(failing(new Error('broken')), { onError: () => null }))
      const { body, isWhole } = await fetchRaw(t, port)
      t.equal(body, 'data: one\n\n')
      t.equal(isWhole, true)
      t.match(await outcome(), { reason: 'failed', error: { message: 'broken' } })
    })

    const broken: Record<string, () => unknown> = {
      throws: () => { throw new Error('onError is broken') },
      'returns an invalid event': () => ({ event: 'a\nb' }),
      'returns undefined': () => undefined,
      rejects: async () => { throw new Error('onError is broken') }
    }
    for (const [name, onError] of Object.entries(broken)) {
      t.test(`that ${name} is logged, and the client gets the event it would have got`, async t => {
        const { port, outcome, logged } = await serve(t, (request, reply) => reply.sse(failing(new Error('broken')), { onError: onError as never }))
        t.equal((await fetchRaw(t, port)).body, `data: one\n\n${internal}`)
        t.match(await outcome(), { reason: 'failed', error: { message: 'broken' } })
        t.match(await logged('onError failed'), { level: 50, err: {} })
      })
    }
  })
})

t.test('the outcome', async t => {
  t.test('completed: exact events and bytes; comments are no events', async t => {
    let result!: StreamOutcome
    const { port, outcome } = await serve(t, async (request, reply) => {
      result = await reply.sse([
        'één', { event: 'x', data: { a: 1 } }, { comment: 'no event' }, { id: 3 }, { comment: 'with', data: '' }
      ], { retry: 10, reconnect: false })
    })
    const { body } = await fetchRaw(t, port)
    t.equal(body, Buffer.from('retry: 10\ndata: één\n\nevent: x\ndata: {"a":1}\n\n: no event\nid: 3\n\n: with\ndata: \n\nevent: end\nid: fastify-streaming:end\ndata: {}\n\n').toString('latin1'))
    t.equal(await outcome(), result)
    const { duration, ...rest } = result
    t.same(rest, { reason: 'completed', events: 4, bytes: body.length })
    t.ok(Number.isInteger(duration) && duration >= 0)
  })

  t.test('disconnected: what was accepted counts', async t => {
    let stream!: EventStream
    const { port, outcome } = await serve(t, async (request, reply) => { stream = await reply.sse() })
    const client = open(t, port)
    await client.until('\r\n\r\n')
    await stream.send('one')
    await client.until('data: one\n\n')
    client.destroy()
    const { duration, ...rest } = await outcome()
    t.same(rest, { reason: 'disconnected', events: 1, bytes: 11 })
  })

  t.test('disconnected: also when the source had ended and the client left with bytes waiting', async t => {
    let isFull = () => false
    const { port, outcome } = await serve(t, (request, reply) => {
      isFull = () => needsDrain(reply.raw)
      return reply.sse(async stream => { stream.send('x'.repeat(20 << 20)) })
    })
    const client = open(t, port)
    client.socket.pause()
    await eventually(() => isFull())
    await turn(10)
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected', events: 1 })
  })

  t.test('closed: by stream.close(), and the first reason counts', async t => {
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(async stream => {
      await stream.send('one')
      stream.close()
      stream.close()
      throw new Error('too late')
    }))
    const { body, isWhole } = await fetchRaw(t, port)
    t.equal(body, 'data: one\n\n')
    t.equal(isWhole, true)
    const { duration, ...rest } = await outcome()
    t.same(rest, { reason: 'closed', events: 1, bytes: 11 })
  })

  t.test('closed: by a hook that took the payload away', async t => {
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(['one']), {
      before: app => app.addHook('onSend', async () => 'something else')
    })
    t.match((await fetchRaw(t, port)).body, 'something else')
    t.match(await outcome(), { reason: 'closed', events: 0, bytes: 0 })
  })

  t.test('aborted: by options.signal, whose reason is the error; the body ends properly and the log line is info', async t => {
    const controller = new AbortController()
    const why = new Error('enough')
    const { port, outcome, logged } = await serve(t, (request, reply) => reply.sse({ signal: controller.signal }) as never)
    const client = open(t, port)
    await client.until('\r\n\r\n')
    controller.abort(why)
    t.ok((await client.end()).endsWith('0\r\n\r\n'))
    const { reason, error } = await outcome()
    t.equal(reason, 'aborted')
    t.equal(error, why)
    t.match(await logged('stream closed'), { level: 30, stream: { reason: 'aborted' }, err: { message: 'enough' } })
  })

  t.test('has an error only when it failed or was aborted', async t => {
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(['one']))
    await fetchRaw(t, port)
    t.notOk('error' in await outcome())
  })

  t.test('of an error before the head: failed, error and onClose, but no line and no count of events', async t => {
    let result!: StreamOutcome
    const { port, outcome, logs } = await serve(t, async (request, reply) => {
      result = await reply.sse((async function * () { throw new Error('no database') })())
    })
    const { head } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 500 /)
    t.equal(await outcome(), result)
    t.match(result, { reason: 'failed', events: 0, bytes: 0, error: { message: 'no database' } })
    await turn(3)
    t.same(logs.filter(({ msg }) => msg === 'stream closed'), [])
  })
})

t.test('signal aborts at every end, before the promise settles; its reason is an AbortError with the reason of the outcome', async t => {
  const ends: Record<string, (stream: EventStream) => unknown> = {
    completed: async stream => { await stream.send('one') },
    failed: async () => { await turn(3); throw new Error('broken') },
    closed: stream => { stream.close() },
    overflow: stream => { for (let i = 0; stream.isOpen; i++) stream.send('x'.repeat(100_000)) },
    expired: () => {},
    aborted: () => {}
  }
  for (const [reason, source] of Object.entries(ends)) {
    let seen: unknown
    let signal!: AbortSignal
    const controller = new AbortController()
    const { port, outcome } = await serve(t, async (request, reply) => {
      await reply.sse(stream => {
        ({ signal } = stream)
        if (reason === 'aborted') setImmediate(() => controller.abort())
        return source(stream) as undefined
      }, { maxDuration: reason === 'expired' ? 1 : 0, signal: controller.signal })
      seen = signal.aborted && signal.reason
    })
    await open(t, port).end()
    t.match(await outcome(), { reason })
    await turn()
    t.ok(seen instanceof DOMException, reason)
    t.match(seen, { name: 'AbortError', reason })
  }
})

t.test('a signal that is read after the end has been aborted', async t => {
  let stream!: EventStream
  const { port, outcome } = await serve(t, async (request, reply) => { stream = await reply.sse() })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.destroy()
  await outcome()
  t.match(stream.signal, { aborted: true, reason: { name: 'AbortError', reason: 'disconnected' } })
})

t.test('the promise settles after the response has closed', async t => {
  let isClosed: boolean | undefined
  const { port, outcome } = await serve(t, async (request, reply) => {
    let closed = false
    reply.raw.on('close', () => { closed = true })
    await reply.sse(['one'])
    isClosed = closed
  })
  await fetchRaw(t, port)
  await outcome()
  await turn()
  t.equal(isClosed, true)
})

t.test('a handler may return, await or ignore the promise: the client gets the stream, never an empty 200', async t => {
  const handlers = {
    returns: (request: unknown, reply: FastifyReply) => reply.sse(['one']),
    'returns in an async function': async (request: unknown, reply: FastifyReply) => reply.sse(['one']),
    awaits: async (request: unknown, reply: FastifyReply) => { await reply.sse(['one']) },
    'awaits and returns something': async (request: unknown, reply: FastifyReply) => { await reply.sse(['one']); return { answer: 42 } },
    ignores: (request: unknown, reply: FastifyReply) => { reply.sse(['one']) },
    'ignores in an async function': async (request: unknown, reply: FastifyReply) => { reply.sse(['one']) }
  }
  for (const [name, handler] of Object.entries(handlers)) {
    const { port, outcome, logs } = await serve(t, handler)
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 200 OK[^]*content-type: text\/event-stream\r\n/, name)
    t.equal(body, 'data: one\n\n', name)
    t.match(await outcome(), { reason: 'completed' }, name)
    await turn(3)
    t.same(logs.filter(({ level }) => level >= 40), [], name)
  }
})

t.test('an async handler that forgets to return the promise gets the error reply of a failed source', async t => {
  const { port } = await serve(t, async (request, reply) => {
    reply.sse((async function * () { throw Object.assign(new Error('no such chat'), { statusCode: 404 }) })())
  })
  const { head, body } = await fetchRaw(t, port)
  t.match(head, /^HTTP\/1.1 404 /)
  t.match(body, 'no such chat')
})

t.test('onClose', async t => {
  t.test('of the plugin and of the call both run, once, with the outcome and the request', async t => {
    const calls: unknown[] = []
    let result!: StreamOutcome
    const { port, logged } = await serve(t, async (request, reply) => {
      result = await reply.sse(['one'], { onClose: (...args) => { calls.push('call', ...args, args[1] === request) } })
    }, { streaming: { onClose: (...args) => { calls.push('plugin', ...args) } } })
    await fetchRaw(t, port)
    await logged('stream closed')
    await turn()
    t.equal(calls.length, 7)
    t.equal(calls[0], 'plugin')
    t.equal(calls[1], result)
    t.equal(calls[3], 'call')
    t.equal(calls[4], result)
    t.equal(calls[6], true)
  })

  for (const [name, onClose] of Object.entries({
    throws: () => { throw new Error('onClose is broken') },
    rejects: async () => { throw new Error('onClose is broken') }
  })) {
    t.test(`that ${name} is logged and ignored`, async t => {
      let result: StreamOutcome | undefined
      let isOtherTold = false
      const { port, logged } = await serve(t, async (request, reply) => {
        result = await reply.sse(['one'], { onClose: () => { isOtherTold = true } })
      }, { streaming: { onClose } })
      await fetchRaw(t, port)
      t.match(await logged('onClose failed'), { level: 50, err: { message: 'onClose is broken' } })
      await logged('stream closed')
      t.equal(isOtherTold, true)
      await turn()
      t.match(result, { reason: 'completed' })
    })
  }
})

t.test('the log line', async t => {
  t.test('tells kind, reason, events, bytes and duration, at info', async t => {
    const { port, logged, logs } = await serve(t, (request, reply) => reply.sse(['one']))
    await fetchRaw(t, port)
    const { level, stream, reqId, ...line } = await logged('stream closed')
    t.equal(level, 30)
    t.ok(reqId)
    t.notOk('err' in line)
    const { duration, ...rest } = stream!
    t.same(rest, { kind: 'sse', reason: 'completed', events: 1, bytes: 11 })
    t.type(duration, 'number')
    t.equal(logs.filter(({ msg }) => msg === 'stream closed').length, 1)
  })

  t.test('is silenced by disableRequestLogging, also where Fastify has no log controller to ask', async t => {
    const of = (app: object) => Object.getOwnPropertySymbols(app).find(({ description }) => description === 'fastify.logController') ?? Symbol('none')
    for (const disableRequestLogging of [true, (request: FastifyRequest) => request.method === 'GET']) {
      let own: unknown
      const { port, outcome, logs } = await serve(t, (request, reply) => reply.sse(['one']), {
        before: app => {
          own = (app as any)[of(app)]
          Object.defineProperty(app, of(app), { value: undefined, writable: true, configurable: true })
          Object.defineProperty(app, 'initialConfig', { value: { ...app.initialConfig, disableRequestLogging } })
        }
      }, app => { (app as any)[of(app)] = own })
      await fetchRaw(t, port)
      await outcome()
      t.notOk(logs.some(({ msg }) => msg === 'stream closed'))
    }
  })

  t.test('is silenced by disableRequestLogging, unless it is a warning', async t => {
    const { port, outcome, logs, logged } = await serve(t, (request, reply) => reply.sse(query(request).fails ? failing(new Error('broken')) : ['one']), {
      fastify: { disableRequestLogging: true }
    })
    await fetchRaw(t, port)
    await outcome()
    await fetchRaw(t, port, { path: '/?fails=1' })
    t.match(await logged('stream closed'), { level: 40, stream: { reason: 'failed' } })
    t.equal(logs.filter(({ msg }) => msg === 'stream closed').length, 1)
  })

  t.test('a client that leaves is no error and is logged as none', async t => {
    const { port, logs, logged } = await serve(t, (request, reply) => reply.sse((stream, signal) => new Promise((resolve, reject) => {
      signal.onabort = () => { reject(signal.reason) }
    })))
    const client = open(t, port)
    await client.until('\r\n\r\n')
    client.destroy()
    t.match(await logged('stream closed'), { level: 30, stream: { kind: 'sse', reason: 'disconnected', events: 0, bytes: 0 } })
    await turn(3)
    t.same(logs.filter(({ level }) => level >= 40), [])
  })
})

t.test('onResponse and the completion line run when the response finishes, and neither when the client leaves', async t => {
  let responses = 0
  const { port, logs, outcome, logged } = await serve(t, (request, reply) => reply.sse(query(request).open ? () => {} : ['one']), {
    before: app => app.addHook('onResponse', async () => { responses++ })
  })
  await fetchRaw(t, port)
  await logged('request completed')
  t.equal(responses, 1)
  const client = open(t, port, { path: '/?open=1' })
  await client.until('\r\n\r\n')
  client.destroy()
  t.match(await outcome(1), { reason: 'disconnected' })
  await turn(3)
  t.equal(responses, 1)
  t.equal(logs.filter(({ msg }) => msg === 'request completed').length, 1)
})

t.test('no outcome leaves an unhandled rejection', async t => {
  const rejections: unknown[] = []
  const note = (reason: unknown) => { rejections.push(reason) }
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))
  const late = new Promise<never>((resolve, reject) => setImmediate(reject, new Error('late')))
  late.catch(() => {})
  const sources: Array<() => unknown> = [
    () => failing(new Error('broken')),
    () => async () => { throw new Error('broken') },
    () => () => { throw new Error('broken') },
    () => async (stream: EventStream) => { stream.close(); await turn(3); throw new Error('after the end') },
    () => [Promise.reject(new Error('item'))],
    () => ({ [Symbol.asyncIterator]: () => ({ next: async () => { throw new Error('next') }, return: async () => { throw new Error('return') } }) }),
    () => ({ [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: 42 }), return: async () => { throw new Error('return') } }) }),
    () => ({ [Symbol.asyncIterator]: () => { throw new Error('iterator') } }),
    () => 42
  ]
  const { port, outcome } = await serve(t, (request, reply) => { reply.sse(sources[query(request).n as never]() as never) })
  for (const n of sources.keys()) {
    await fetchRaw(t, port, { path: `/?n=${n}` })
    t.match(await outcome(n), { reason: n === 3 ? 'closed' : 'failed' })
  }
  await turn(10)
  t.same(rejections, [])
})
