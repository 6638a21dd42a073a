import '../fixtures/guard.ts'
import compress from '@fastify/compress'
import t from 'tap'
import { PassThrough, pipeline, Readable, Transform } from 'node:stream'
import { text } from 'node:stream/consumers'
import { constants, gunzipSync } from 'node:zlib'
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import { deferred, eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { dechunk, fetchRaw, open } from '../fixtures/raw.ts'
import { soon, Teapot } from '../fixtures/samples.ts'
import { serve, troubles } from '../fixtures/server.ts'
import type { EventStream } from '../../lib/index.ts'

// Not there in every version of Fastify that this package works with.
const hasHandlerTimeout = 'handlerTimeout' in fastify().initialConfig

const silence = (): undefined => {}

function upperCase (): Transform {
  return new Transform({ transform (chunk, encoding, done) { done(null, String(chunk).toUpperCase()) } })
}

/** Runs `change` on the payload of the first reply of each request, not on that of an error. */
function onStream (change: (payload: Readable, reply: FastifyReply) => unknown): (app: FastifyInstance) => void {
  return app => {
    app.addHook('onSend', async (request, reply, payload) => {
      return payload instanceof Readable ? await change(payload, reply) : payload
    })
  }
}

t.test('what this package looks at inside Fastify is there', async t => {
  const seen: Array<string | undefined> = []
  const { port } = await serve(t, (request, reply) => {
    seen.push(...Object.getOwnPropertySymbols(reply).map(symbol => symbol.description))
    return 'x'
  })
  await fetchRaw(t, port)
  t.ok(seen.includes('fastify.reply.trailers'))
  t.ok(seen.includes('fastify.reply.isError'))
})

t.test('a stream that Fastify pipes into the response is handed over', async t => {
  t.test('what Fastify listens for on the response is gone, what was there before is not', async t => {
    const counts: number[][] = []
    const count = ({ raw }: FastifyReply) => ['finish', 'close', 'error', 'end', 'drain', 'unpipe'].map(name => raw.listenerCount(name))
    const server = await serve(t, async (request, reply) => {
      reply.raw.on('close', silence).on('finish', silence)
      const stream = await reply.sse()
      counts.push(count(reply))
      stream.close()
    }, {}, onStream((payload, reply) => { counts.push(count(reply)); return payload }))
    await fetchRaw(t, server.port)
    await server.outcome()
    const [before, after] = counts
    // 'drain' is ours, from the head on.
    t.strictSame(after, before.with(4, before[4] + 1))
  })

  t.test('nothing of ours is left on the response when the stream has closed', async t => {
    let raw: FastifyReply['raw'] | undefined
    let before: number[] = []
    const count = () => ['close', 'drain', 'error'].map(name => raw?.listenerCount(name) ?? NaN)
    const server = await serve(t, (request, reply) => {
      raw = reply.raw
      before = count()
      return reply.sse(soon('x'))
    })
    await fetchRaw(t, server.port)
    await server.outcome()
    await server.logged('request completed')
    t.strictSame(count(), before)
  })

  t.test('reply.sent is false until the response has ended, and true once the stream has closed', async t => {
    const sent: boolean[] = []
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      sent.push(reply.sent)
      stream.close()
      await stream.closed
      sent.push(reply.sent)
    })
    await fetchRaw(t, server.port)
    await server.outcome()
    await eventually(() => sent.length === 2)
    t.strictSame(sent, [false, true])
  })
})

const ways: Record<string, (payload: Readable) => unknown> = {
  'payload.pipe(transform)': payload => payload.pipe(upperCase()),
  'pipeline(payload, transform)': payload => pipeline(payload, upperCase(), silence),
  'an async iteration': payload => Readable.from((async function * () {
    for await (const chunk of payload) yield String(chunk).toUpperCase()
  })()),
  'its data events': payload => {
    const to = new PassThrough()
    payload.on('data', chunk => to.write(String(chunk).toUpperCase())).on('end', () => to.end()).on('error', error => to.destroy(error))
    return to
  },
  'a web stream': payload => Readable.toWeb(payload.pipe(upperCase()))
}
for (const [name, way] of Object.entries(ways)) {
  t.test(`a hook that reads the payload by ${name}`, async t => {
    t.test('gets all of it; the outcome counts what the stream has written', async t => {
      const server = await serve(t, (request, reply) => reply.sse(soon('x', 'y')), {}, onStream(way))
      const { head, body, isWhole } = await fetchRaw(t, server.port)
      t.match(head, /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/event-stream\r\n/)
      t.equal(body, 'DATA: X\n\nDATA: Y\n\n')
      t.ok(isWhole)
      t.match(await server.outcome(), { reason: 'completed', events: 2, bytes: 18 })
      await server.logged('request completed')
      t.equal((await server.logged('stream closed')).level, 30)
      t.strictSame(troubles(server), [])
    })

    t.test('gets the error event of a source that fails after the head, and a proper end', async t => {
      const server = await serve(t, (request, reply) => reply.sse((async function * () {
        yield 'x'
        await turn(5)
        throw new Teapot('short and stout')
      })()), {}, onStream(way))
      const { body, isWhole } = await fetchRaw(t, server.port)
      t.equal(body, 'DATA: X\n\nEVENT: ERROR\nDATA: {"CODE":"TEAPOT","MESSAGE":"SHORT AND STOUT"}\n\n')
      t.ok(isWhole)
      t.match(await server.outcome(), { reason: 'failed', events: 1, error: { code: 'TEAPOT' } })
      t.strictSame(troubles(server), ['stream closed'])
    })

    t.test('is none the wiser when the source fails before the head: Fastify sends the error', async t => {
      const server = await serve(t, (request, reply) => reply.sse((async function * () { throw new Teapot('short and stout') })()), {}, onStream(way))
      const { head, body } = await fetchRaw(t, server.port)
      t.match(head, /^HTTP\/1\.1 418 /)
      t.match(JSON.parse(body), { code: 'TEAPOT' })
    })

    t.test('loses its source when the client leaves', async t => {
      const released = deferred()
      const server = await serve(t, (request, reply) => reply.sse((stream, signal) => {
        signal.addEventListener('abort', () => released.resolve())
        stream.send('x')
      }), {}, onStream(way))
      const client = open(t, server.port)
      await client.until('DATA: X')
      client.destroy()
      await released.promise
      t.match(await server.outcome(), { reason: 'disconnected' })
      await turn(3)
      t.strictSame(troubles(server), [])
    })
  })
}

t.test('a hook that pipes the payload', async t => {
  t.test('holds the source back with its own backpressure', async t => {
    let asked = 0
    const hold = deferred()
    const item = 'x'.repeat(10_000)
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      for (let i = 0; i < 50; i++) {
        asked++
        yield item
      }
    })()), {}, onStream(payload => payload.pipe(new Transform({
      async transform (chunk, encoding, done) { await hold.promise; done(null, chunk) }
    }))))
    const client = open(t, server.port)
    await eventually(() => asked > 1)
    await turn(50)
    // 16 KiB in the payload, 16 KiB in the transform, and what is written at once.
    t.ok(asked < 20, `${asked} items asked for while nothing is taken`)
    hold.resolve()
    const text = await client.end()
    t.equal(dechunk(text.slice(text.indexOf('\r\n\r\n') + 4)).body, `data: ${item}\n\n`.repeat(50))
    t.match(await server.outcome(), { reason: 'completed', events: 50 })
  })

  t.test('into what takes it and lets nothing through is cut, also when its source has ended', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x'], { writeTimeout: 5000 }), {}, onStream(payload => payload.pipe(new Transform({
      transform () {}
    }))))
    const clock = fakeClock(t)
    const client = open(t, server.port)
    await server.logged('incoming request')
    await turn(20)
    clock.tick(5000)
    t.match(await server.outcome(), { reason: 'stalled' })
    await client.end()
  })

  t.test('into the response, whose client takes no more, is cut, also when its source has ended', async t => {
    const full = deferred()
    const server = await serve(t, (request, reply) => reply.sse(async stream => {
      while (request.raw.socket.writableLength === 0) {
        stream.send('y'.repeat(12_000))
        await turn()
      }
      stream.close()
      full.resolve()
    }, { writeTimeout: 5000, heartbeat: 0 }), {}, onStream(payload => payload.on('data', silence)))
    const clock = fakeClock(t)
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    client.socket.pause()
    await full.promise
    await turn(20)
    clock.tick(5000)
    t.match(await server.outcome(), { reason: 'closed' })
  })

  t.test('and fails before it has let anything through gets an ordinary error reply', async t => {
    const released = deferred()
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      try { yield 'x'; yield 'y' } finally { released.resolve() }
    })()), {}, onStream(payload => payload.pipe(new Transform({
      transform (chunk, encoding, done) { done(new Teapot('short and stout')) }
    }))))
    const { head, body } = await fetchRaw(t, server.port)
    t.match(head, /^HTTP\/1\.1 418 /)
    t.notMatch(head, /no-transform/)
    t.match(JSON.parse(body), { code: 'TEAPOT' })
    t.match(await server.outcome(), { reason: 'failed', error: { code: 'TEAPOT' } })
    await released.promise
    t.equal(server.logs.filter(line => line.err !== undefined).length, 1)
  })

  t.test('and fails after the head cuts the body', async t => {
    let isFirst = true
    const released = deferred()
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      try {
        yield 'x'
        await turn(3)
        yield 'y'
        yield 'z'
      } finally { released.resolve() }
    })()), {}, onStream(payload => payload.pipe(new Transform({
      transform (chunk, encoding, done) {
        if (!isFirst) return done(new Error('broken'))
        isFirst = false
        done(null, chunk)
      }
    }))))
    const { body, isWhole } = await fetchRaw(t, server.port)
    t.equal(body, 'data: x\n\n')
    t.notOk(isWhole)
    await released.promise
    t.match(await server.outcome(), { reason: 'disconnected' })
  })

  t.test('is not cut by handlerTimeout after the head', { skip: hasHandlerTimeout ? false : 'this Fastify has no handlerTimeout' }, async t => {
    const server = await serve(t, silence, {}, app => {
      onStream(payload => payload.pipe(upperCase()))(app)
      app.get('/slow', { handlerTimeout: 50 }, async (request, reply) => {
        const stream = await reply.sse()
        await stream.send('x')
        setTimeout(() => { stream.send('late').then(() => stream.close()) }, 150)
      })
    })
    const { body, isWhole } = await fetchRaw(t, server.port, { path: '/slow' })
    t.equal(body, 'DATA: X\n\nDATA: LATE\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'closed', events: 2 })
  })

  t.test('while the source fails and a later hook is running: Fastify sends the error', async t => {
    const source = deferred()
    const hold = deferred()
    const running = deferred()
    const server = await serve(t, (request, reply) => reply.sse(async () => { await source.promise }), {}, app => {
      onStream(payload => payload.pipe(upperCase()))(app)
      let isFirst = true
      app.addHook('onSend', async () => {
        if (!isFirst) return
        isFirst = false
        running.resolve()
        await hold.promise
      })
    })
    const reply = fetchRaw(t, server.port)
    await running.promise
    await turn(2)
    source.reject(new Teapot('short and stout'))
    await turn(2)
    hold.resolve()
    const { head, body } = await reply
    // By then the hook has begun to read: the head is the stream's.
    t.match(head, /^HTTP\/1\.1 200 /)
    t.equal(body, 'EVENT: ERROR\nDATA: {"CODE":"TEAPOT","MESSAGE":"SHORT AND STOUT"}\n\n')
    t.match(await server.outcome(), { reason: 'failed' })
  })

  t.test('of a source that has failed while an earlier hook was running: Fastify sends the error', async t => {
    const source = deferred()
    const hold = deferred()
    const running = deferred()
    const server = await serve(t, (request, reply) => reply.sse(async () => { await source.promise }), {}, app => {
      let isFirst = true
      app.addHook('onSend', async () => {
        if (!isFirst) return
        isFirst = false
        running.resolve()
        await hold.promise
      })
      onStream(payload => payload.pipe(upperCase()))(app)
    })
    const reply = fetchRaw(t, server.port)
    await running.promise
    source.reject(new Teapot('short and stout'))
    await turn(2)
    hold.resolve()
    const { text, head, body } = await reply
    t.match(head, /^HTTP\/1\.1 418 /)
    t.match(JSON.parse(body), { code: 'TEAPOT' })
    t.equal(text.split('HTTP/1.1').length, 2, 'one reply')
    t.match(await server.outcome(), { reason: 'failed' })
    t.equal(server.logs.filter(line => line.err !== undefined).length, 1)
  })
})

t.test('a hook that takes the payload away', async t => {
  const replacements: Record<string, [replacement: unknown, body: string]> = {
    'a string': ['mine', 'mine'],
    nothing: [null, ''],
    'a stream of its own': [undefined, 'own']
  }
  for (const [name, [replacement, expected]] of Object.entries(replacements)) {
    t.test(`and sends ${name} closes the stream, and its source is released`, async t => {
      const calls: string[] = []
      const source = {
        [Symbol.asyncIterator]: () => ({
          next: async () => { calls.push('next'); return { done: false, value: 'x' } },
          return: async () => { calls.push('return'); return { done: true, value: undefined } }
        })
      }
      const server = await serve(t, (request, reply) => reply.sse(source), {},
        onStream(() => replacement === undefined ? Readable.from(['own']) : replacement))
      const { head, body } = await fetchRaw(t, server.port)
      t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
      t.equal(body, expected)
      t.match(await server.outcome(), { reason: 'closed', events: 0, bytes: 0 })
      t.strictSame(calls, ['next', 'return'])
      t.strictSame(troubles(server), [])
    })
  }

  t.test('from a source that has ended already gives closed, not completed', async t => {
    const server = await serve(t, (request, reply) => reply.sse([]), {}, onStream(async () => { await turn(2); return 'mine' }))
    t.equal((await fetchRaw(t, server.port)).body, 'mine')
    t.match(await server.outcome(), { reason: 'closed' })
  })

  t.test('and destroys it closes the stream', async t => {
    const server = await serve(t, (request, reply) => reply.sse(silence), {},
      onStream(payload => { payload.destroy(); return 'mine' }))
    t.equal((await fetchRaw(t, server.port)).body, 'mine')
    t.match(await server.outcome(), { reason: 'closed' })
  })
})

t.test('@fastify/compress with customTypes that let it compress event streams', async t => {
  const compressed = {
    before: async (app: FastifyInstance) => { await app.register(compress, { customTypes: /event-stream/, encodings: ['gzip'], threshold: 0 }) }
  }
  const gzip = { headers: ['Accept-Encoding: gzip'] }
  const zipped = (body: string) => gunzipSync(Buffer.from(body, 'latin1'), { finishFlush: constants.Z_SYNC_FLUSH }).toString()

  t.test('compresses the stream; the outcome counts what the stream has written', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x', 'y')), compressed)
    const { head, body, isWhole } = await fetchRaw(t, server.port, gzip)
    t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
    t.match(head, /^content-type: text\/event-stream\r$/m)
    t.match(head, /^content-encoding: gzip\r$/m)
    t.equal(zipped(body), 'data: x\n\ndata: y\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'completed', events: 2, bytes: 18 })
    t.strictSame(troubles(server), [])
  })

  t.test('leaves it alone for a client that takes no compression', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x')), compressed)
    t.equal((await fetchRaw(t, server.port)).body, 'data: x\n\n')
  })

  t.test('a source that fails before the head gets a readable error reply', async t => {
    const server = await serve(t, (request, reply) => reply.sse((async function * () { throw new Teapot('short and stout') })()), compressed)
    const { head, body } = await fetchRaw(t, server.port, gzip)
    t.match(head, /^HTTP\/1\.1 418 /)
    t.match(JSON.parse(/content-encoding: gzip/.test(head) ? zipped(body) : body), { code: 'TEAPOT' })
  })

  t.test('a source that fails while the hooks run gets a readable error reply', async t => {
    const source = deferred()
    const hold = deferred()
    const running = deferred()
    let isFirst = true
    const server = await serve(t, (request, reply) => reply.sse(async () => { await source.promise }), {
      before: async app => {
        app.addHook('onSend', async () => {
          if (!isFirst) return
          isFirst = false
          running.resolve()
          await hold.promise
        })
        await compressed.before(app)
      }
    })
    const reply = fetchRaw(t, server.port, gzip)
    await running.promise
    source.reject(new Teapot('short and stout'))
    await turn(2)
    hold.resolve()
    const { head, body, text } = await reply
    t.match(head, /^HTTP\/1\.1 418 /)
    t.match(JSON.parse(/content-encoding: gzip/.test(head) ? zipped(body) : body), { code: 'TEAPOT' })
    t.equal(text.split('HTTP/1.1').length, 2, 'one reply')
    t.match(await server.outcome(), { reason: 'failed' })
    t.equal(server.logs.filter(line => line.err !== undefined).length, 1)
  })

  t.test('a source that fails after the head ends the body properly, with the error event', async t => {
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      yield 'x'
      await turn(3)
      throw new Teapot('short and stout')
    })()), compressed)
    const { body, isWhole } = await fetchRaw(t, server.port, gzip)
    t.equal(gunzipSync(Buffer.from(body, 'latin1')).toString(), 'data: x\n\nevent: error\ndata: {"code":"TEAPOT","message":"short and stout"}\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'failed', events: 1 })
    t.strictSame(troubles(server), ['stream closed'])
  })

  t.test('a stream that is cut does not end properly', async t => {
    const server = await serve(t, (request, reply) => reply.sse(stream => {
      stream.send('x'.repeat(100))
      stream.send('x'.repeat(100))
      stream.send('x'.repeat(100))
    }, { maxBuffered: 150 }), compressed)
    const text = await open(t, server.port, gzip).end()
    t.notMatch(text, /0\r\n\r\n$/)
    t.match(await server.outcome(), { reason: 'overflow' })
  })

  t.test('a client that leaves ends the stream, and nobody logs trouble', async t => {
    const released = deferred()
    const server = await serve(t, (request, reply) => reply.sse((stream, signal) => {
      signal.addEventListener('abort', () => released.resolve())
      // What does not compress fills zlib's buffer, so that the head goes out.
      stream.send(Array.from({ length: 40_000 }, () => Math.random().toString(36)[3]).join(''))
    }), compressed)
    const client = open(t, server.port, gzip)
    await client.until('\r\n\r\n')
    client.destroy()
    await released.promise
    t.match(await server.outcome(), { reason: 'disconnected' })
    await turn(3)
    t.strictSame(troubles(server), [])
  })

  t.test('HEAD gets the head, and the source is not started', async t => {
    let called = false
    const server = await serve(t, (request, reply) => reply.sse(() => { called = true }), compressed)
    const { text } = await fetchRaw(t, server.port, { method: 'HEAD', ...gzip })
    t.match(text, /^HTTP\/1\.1 200 OK\r\n[^]*content-type: text\/event-stream\r\n[^]*\r\n\r\n$/)
    t.match(await server.outcome(), { reason: 'completed' })
    t.notOk(called)
    t.strictSame(troubles(server), [])
  })
})

const observers: Record<string, (payload: Readable, see: (chunk: unknown) => void) => void> = {
  'its data events': (payload, see) => { payload.on('data', see) },
  'a pipe to somewhere else': (payload, see) => { payload.pipe(new PassThrough()).on('data', see) },
  'read()': (payload, see) => {
    payload.on('readable', () => { for (let chunk; (chunk = payload.read() as unknown) !== null;) see(chunk) })
  }
}
for (const [name, observe] of Object.entries(observers)) {
  t.test(`a hook that looks at the payload by ${name} and passes it on shares it with the client`, async t => {
    let seen = ''
    const server = await serve(t, (request, reply) => reply.sse(soon('x', 'y')), {}, app => {
      app.addHook('onSend', (request, reply, payload, done) => {
        observe(payload as Readable, chunk => { seen += String(chunk) })
        done(null, payload)
      })
    })
    const { body, isWhole } = await fetchRaw(t, server.port)
    t.equal(body, 'data: x\n\ndata: y\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), { reason: 'completed', events: 2, bytes: 18 })
    t.equal(seen, body)
  })
}

t.test('a hook that looks at the payload does not hold the head back', async t => {
  let stream: EventStream | undefined
  const server = await serve(t, async (request, reply) => { stream = await reply.sse({ heartbeat: 0 }) }, {}, app => {
    app.addHook('onSend', (request, reply, payload, done) => {
      (payload as Readable).on('data', silence)
      done(null, payload)
    })
  })
  const client = open(t, server.port)
  await client.until('\r\n\r\n')
  await eventually(() => stream !== undefined)
  stream?.close()
  t.match(await client.end(), /\r\n\r\n0\r\n\r\n$/)
})

t.test('a hook that takes the reply over, and pipes the payload into the raw response, gets an ordinary stream', async t => {
  const server = await serve(t, (request, reply) => reply.sse(soon('x')), {}, app => {
    app.addHook('onSend', (request, reply, payload) => {
      reply.hijack()
      ;(payload as Readable).pipe(reply.raw)
    })
  })
  const { body, isWhole } = await fetchRaw(t, server.port)
  t.equal(body, 'data: x\n\n')
  t.ok(isWhole)
  t.match(await server.outcome(), { reason: 'completed' })
  t.equal(server.app.streaming.open, 0)
})

t.test('a hook that reads the payload and destroys it before its end takes it away', async t => {
  for (const error of [undefined, new Teapot('enough')]) {
    let released = false
    const server = await serve(t, (request, reply) => reply.sse((async function * () {
      try {
        yield * soon('x')
        for (;;) yield * soon('y')
      } finally {
        released = true
      }
    })()), {}, onStream(payload => Readable.from((async function * () {
      const first = await payload[Symbol.asyncIterator]().next() as { value: unknown }
      yield first.value
      payload.destroy(error)
    })())))
    const { body, isWhole } = await fetchRaw(t, server.port)
    t.equal(body, 'data: x\n\n')
    t.ok(isWhole)
    t.match(await server.outcome(), error === undefined ? { reason: 'closed' } : { reason: 'failed', error })
    t.ok(released)
  }
})

t.test('a hook that reads the whole payload before it passes anything on', async t => {
  const whole = (app: FastifyInstance): void => {
    app.setErrorHandler((error, request, reply) => reply.code((error as Teapot).statusCode ?? 500).send({ handled: (error as Error).message }))
    onStream(async payload => await text(payload))(app)
  }

  t.test('gets an error before the head as its own, and the error handler runs', async t => {
    const server = await serve(t, (request, reply) => reply.streamWriter(async function * () {
      yield 'begun'
      await turn(5)
      throw new Teapot('short and stout')
    }), {}, whole)
    const { head, body } = await fetchRaw(t, server.port)
    t.match(head, /^HTTP\/1\.1 418 /)
    t.strictSame(JSON.parse(body), { handled: 'short and stout' })
    t.match(await server.outcome(), { reason: 'failed', error: { message: 'short and stout' } })
  })

  t.test('gets the 503 of a writer that has no time left', async t => {
    const server = await serve(t, (request, reply) => reply.streamWriter(async writer => {
      await writer.write('begun')
      await writer.closed
    }, { maxDuration: 1 }), {}, whole)
    const { head, body } = await fetchRaw(t, server.port)
    t.match(head, /^HTTP\/1\.1 503 /)
    t.match(JSON.parse(body), { handled: /expired/ })
    t.match(await server.outcome(), { reason: 'expired' })
  })

  t.test('is told when the client leaves', async t => {
    const failed = deferred<unknown>()
    const server = await serve(t, (request, reply) => reply.sse(silence), {}, onStream(async payload => {
      return await text(payload).catch((error: unknown) => { failed.resolve(error) })
    }))
    const client = open(t, server.port)
    await server.logged('incoming request')
    await turn(5)
    client.destroy()
    t.match(await failed.promise, { code: 'ERR_STREAM_PREMATURE_CLOSE' })
    t.match(await server.outcome(), { reason: 'disconnected' })
  })

  t.test('has a second to answer when the stream is cut', async t => {
    let cut = (): void => {}
    const server = await serve(t, (request, reply) => reply.streamWriter(async writer => {
      await writer.write('begun')
      await new Promise<void>((resolve, reject) => { cut = () => reject(new Teapot('short and stout')) })
    }), {}, onStream(async payload => {
      payload.resume()
      await new Promise(() => {})
    }))
    const clock = fakeClock(t)
    const client = open(t, server.port)
    await server.logged('incoming request')
    await turn(10)
    cut()
    await turn(5)
    clock.tick(999)
    await turn(5)
    t.equal(server.outcomes.length, 0)
    clock.tick(1)
    t.equal(await client.end(), '')
    t.match(await server.outcome(), { reason: 'failed', error: { message: 'short and stout' } })
  })
})

t.test('an error of a hook that has begun to read the payload, or of a later one, is the whole reply', async t => {
  type Hook = (payload: Readable, done: (error: Error | null, payload?: unknown) => void) => void
  const reading: Hook = (payload, done) => { done(null, payload.pipe(new PassThrough())) }
  const later: Hook = (payload, done) => { setImmediate(done, new Teapot('refused')) }
  const atOnce: Hook = (payload, done) => {
    payload.pipe(new PassThrough())
    done(new Teapot('refused'))
  }
  for (const [hooks, opened] of [[[atOnce], 0], [[reading, later], 1]] as const) {
    const server = await serve(t, (request, reply) => reply.sse(soon('x')), {}, app => {
      for (const hook of hooks) {
        app.addHook('onSend', (request, reply, payload, done) => {
          if (payload instanceof Readable) hook(payload, done)
          else done(null, payload)
        })
      }
    })
    const { head, body } = await fetchRaw(t, server.port)
    t.match(head, /^HTTP\/1\.1 418 /)
    t.notMatch(head, /event-stream|x-accel-buffering/)
    t.match(JSON.parse(body), { message: 'refused' })
    t.match(await server.outcome(), { reason: 'failed', events: 0, bytes: 0, error: { message: 'refused' } })
    t.match(server.app.streaming.stats(), { open: 0, opened, closed: { failed: opened } })
  }
})
