import '../fixtures/guard.ts'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { PassThrough, Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import { turn } from '../fixtures/clock.ts'
import { fetchRaw, open, type RawRequest } from '../fixtures/raw.ts'
import { serve, type ServeOptions } from '../fixtures/server.ts'
import type { EventSource, EventSourceFunction, EventStreamOptions, EventStream } from '../../lib/index.ts'

/** The body of a stream of this source. */
async function bodyOf (t: Test, source: EventSource | EventSourceFunction, options?: EventStreamOptions): Promise<string> {
  const { port } = await serve(t, (request, reply) => reply.sse(source, options))
  return Buffer.from((await fetchRaw(t, port)).body, 'latin1').toString()
}

t.test('an async iterable gives one event an item, in order', async t => {
  t.equal(await bodyOf(t, (async function * () {
    yield 'a'
    await turn()
    yield { event: 'b', data: 1 }
    yield 'c'
  })()), 'data: a\n\nevent: b\ndata: 1\n\ndata: c\n\n')
})

t.test('an iterable gives one event an item, in order', async t => {
  t.equal(await bodyOf(t, ['a', { data: 1 }]), 'data: a\n\ndata: 1\n\n')
  t.equal(await bodyOf(t, new Set(['a', 'b'])), 'data: a\n\ndata: b\n\n')
  t.equal(await bodyOf(t, (function * () { yield 'a'; yield 'b' })()), 'data: a\n\ndata: b\n\n')
})

t.test('an empty iterable is an empty stream that has completed', async t => {
  const server = await serve(t, (request, reply) => reply.sse([]))
  const { head, body } = await fetchRaw(t, server.port)
  t.match(head, /^HTTP\/1.1 200 OK\r\n(.*\r\n)*content-type: text\/event-stream\r\n/)
  t.equal(body, '')
  t.match(await server.outcome(), { reason: 'completed', events: 0, bytes: 0 })
})

t.test('items of an iterable that are promises are awaited, in order', async t => {
  const later = async (value: string) => { await turn(); return value }
  t.equal(await bodyOf(t, [later('a'), 'b', later('c')]), 'data: a\n\ndata: b\n\ndata: c\n\n')
  const thenable = { then (resolve: (value: string) => void) { resolve('d') } }
  t.equal(await bodyOf(t, [thenable, 'e']), 'data: d\n\ndata: e\n\n')
})

t.test('what is both iterable and async iterable is read as async', async t => {
  const both = { * [Symbol.iterator] () { yield 'sync' }, async * [Symbol.asyncIterator] () { yield 'async' } }
  t.equal(await bodyOf(t, both), 'data: async\n\n')
})

t.test('an object literal that is iterable is a source, not options', async t => {
  t.equal(await bodyOf(t, { * [Symbol.iterator] () { yield 'a' } }), 'data: a\n\n')
  t.equal(await bodyOf(t, { async * [Symbol.asyncIterator] () { yield 'b' } }), 'data: b\n\n')
})

t.test('a function', async t => {
  t.test('is called once, with the stream and its signal', async t => {
    t.plan(3)
    const { port } = await serve(t, (request, reply) => reply.sse((stream, signal) => {
      t.equal(signal, stream.signal)
      t.equal(signal.aborted, false)
      return ['a']
    }))
    t.equal((await fetchRaw(t, port)).body, 'data: a\n\n')
  })

  for (const [name, source] of [
    ['an async generator', async function * () { yield 'a' }],
    ['a generator', function * () { yield 'a' }],
    ['an iterable', () => ['a']],
    ['a promise of an iterable', async () => ['a']],
    ['a thenable that resolves with a promise of an iterable', () => ({ then (resolve: (value: unknown) => void) { resolve(Promise.resolve(['a'])) } })],
    ['a promise of an async generator', async () => (async function * () { yield 'a' })()],
    ['a Readable', () => Readable.from(['a'])],
    ['a promise of a ReadableStream', async () => ReadableStream.from(['a'])],
    // Query builders are both.
    ['a thenable that is iterable too', () => ({ then (resolve: (value: string[]) => void) { resolve(['a']) }, [Symbol.iterator] () { return ['b'] } })]
  ] as Array<[string, EventSourceFunction]>) {
    t.test(`may give ${name}, which is consumed`, async t => {
      t.equal(await bodyOf(t, source), 'data: a\n\n')
    })
  }

  t.test('that resolves with undefined ends the stream', async t => {
    const server = await serve(t, (request, reply) => reply.sse(async stream => {
      await stream.send('a')
      await turn()
      stream.send('b')
    }))
    t.equal((await fetchRaw(t, server.port)).body, 'data: a\n\ndata: b\n\n')
    t.match(await server.outcome(), { reason: 'completed', events: 2 })
  })

  t.test('that returns undefined leaves the stream open until close()', async t => {
    let stream!: EventStream
    const server = await serve(t, (request, reply) => reply.sse(_stream => { stream = _stream }))
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    t.equal(stream.isOpen, true)
    stream.send('a')
    await client.until('data: a\n\n')
    t.equal(stream.isOpen, true)
    stream.close()
    await client.end()
    t.match(await server.outcome(), { reason: 'closed', events: 1 })
  })

  t.test('that returns undefined leaves the stream open until the client leaves', async t => {
    let stream!: EventStream
    const server = await serve(t, (request, reply) => reply.sse(_stream => { stream = _stream }))
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    client.destroy()
    t.match(await server.outcome(), { reason: 'disconnected' })
    t.equal(stream.isOpen, false)
    t.equal(stream.signal.aborted, true)
  })

  t.test('may send before the source that it gives', async t => {
    t.equal(await bodyOf(t, stream => {
      stream.send('first')
      return ['second']
    }), 'data: first\n\ndata: second\n\n')
  })

  t.test('that throws or rejects before the head gets an ordinary error reply', async t => {
    const error = Object.assign(new Error('no model'), { statusCode: 409 })
    for (const source of [() => { throw error }, async () => { throw error }, async function * () { throw error }]) {
      const { port } = await serve(t, (request, reply) => reply.sse(source as EventSourceFunction))
      const { head, body } = await fetchRaw(t, port)
      t.match(head, /^HTTP\/1.1 409 /)
      t.match(JSON.parse(body), { message: 'no model' })
    }
  })

  for (const [name, value] of [['null', null], ['a string', 'x'], ['a function', () => ['a']], ['an event', { data: 'x' }], ['bytes', Buffer.from('x')]] as const) {
    t.test(`that gives ${name} is refused before the head`, async t => {
      for (const source of [() => value, async () => value]) {
        const { port } = await serve(t, (request, reply) => reply.sse(source as unknown as EventSourceFunction))
        const { head, body } = await fetchRaw(t, port)
        t.match(head, /^HTTP\/1.1 500 /)
        t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: /\[event\]/ })
      }
    })
  }
})

for (const [kind, streamOf] of [
  ['a Readable', (...chunks: unknown[]) => Readable.from(chunks)],
  ['a ReadableStream', (...chunks: unknown[]) => ReadableStream.from(chunks)]
] as Array<[string, (...chunks: unknown[]) => EventSource]>) {
  t.test(kind, async t => {
    t.test('gives one event an item', async t => {
      t.equal(await bodyOf(t, streamOf('a', { event: 'b', data: 1 })), 'data: a\n\nevent: b\ndata: 1\n\n')
    })

    t.test('of bytes gives one event a chunk', async t => {
      t.equal(await bodyOf(t, streamOf(Buffer.from('a\nb'), new Uint8Array([0x63]))), 'data: a\ndata: b\n\ndata: c\n\n')
    })

    t.test('decodes characters across chunk borders', async t => {
      t.equal(await bodyOf(t, streamOf(Buffer.from([0x61, 0xF0, 0x9F]), Buffer.from([0x98, 0x80, 0x62]))), 'data: a\n\ndata: 😀b\n\n')
    })

    t.test('makes no event of a chunk that completes no character', async t => {
      t.equal(await bodyOf(t, streamOf(Buffer.of(0xF0), Buffer.of(0x9F), Buffer.of(0x98), Buffer.of(0x80), Buffer.of())), 'data: 😀\n\n')
    })

    t.test('makes one U+FFFD of bytes that end inside a character', async t => {
      t.equal(await bodyOf(t, streamOf(Buffer.from('a'), Buffer.of(0xF0, 0x9F), Buffer.of(0x98))), 'data: a\n\ndata: \uFFFD\n\n')
    })

    t.test('keeps a byte order mark', async t => {
      t.equal(await bodyOf(t, streamOf(Buffer.from('\uFEFFa'))), 'data: \uFEFFa\n\n')
    })
  })
}

t.test('a file is read to its end', async t => {
  const server = await serve(t, (request, reply) => reply.sse(createReadStream(import.meta.filename, { highWaterMark: 100, end: 250 })))
  await fetchRaw(t, server.port)
  t.match(await server.outcome(), { reason: 'completed', events: 3 })
})

t.test('a byte stream of the web is read too', async t => {
  t.equal(await bodyOf(t, new ReadableStream({ type: 'bytes', start (controller) { controller.enqueue(new Uint8Array([0x61])); controller.close() } })), 'data: a\n\n')
})

t.test('anything else is refused before the head, and the message shows the right form', async t => {
  const locked = new ReadableStream()
  locked.getReader()
  for (const [name, source] of [
    ['undefined', undefined], ['null', null], ['a string', 'hello'], ['bytes', Buffer.from('hello')], ['an event', { data: 'hello' }],
    ['a number', 42], ['true', true], ['a promise', Promise.resolve(['a'])], ['a date', new Date(0)], ['a stream that somebody reads', locked]
  ]) {
    await t.test(String(name), async t => {
      const server = await serve(t, (request, reply) => reply.sse(source as never, {}))
      const { head, body } = await fetchRaw(t, server.port)
      t.match(head, /^HTTP\/1.1 500 (.*\r\n)*content-type: application\/json/)
      t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: /\[event\]/ })
      t.match(await server.outcome(), { reason: 'failed', events: 0, bytes: 0 })
    })
  }
})

t.test('undefined as the only argument is a missing source, not a call without one', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(undefined as never))
  t.match(JSON.parse((await fetchRaw(t, port)).body), { code: 'FST_STREAM_INVALID_SOURCE', message: /got 'undefined'/ })
})

interface Held {
  source: EventSource
  /** How often the source was released by the stream. */
  releases: () => number
  /** The source gives an item. */
  give: (item: unknown) => void
  /** How often the source was asked for an item. */
  reads: () => number
}

/** Sources that wait until they are given an item, and count how often they are let go. */
const holders: Record<string, () => Held> = {
  'an async iterable' () {
    const waiting: Array<(result: IteratorResult<unknown>) => void> = []
    let releases = 0
    let reads = 0
    return {
      source: {
        [Symbol.asyncIterator]: () => ({
          next: () => { reads++; return new Promise(resolve => { waiting.push(resolve) }) },
          return: async () => { releases++; return { done: true, value: undefined } }
        })
      },
      releases: () => releases,
      give: value => waiting.shift()?.({ done: false, value }),
      reads: () => reads
    }
  },
  'an iterable of promises' () {
    const waiting: Array<(value: unknown) => void> = []
    let releases = 0
    let reads = 0
    return {
      source: {
        [Symbol.iterator]: () => ({
          next: () => { reads++; return { done: false, value: new Promise(resolve => { waiting.push(resolve) }) } },
          return: () => { releases++; return { done: true, value: undefined } }
        })
      },
      releases: () => releases,
      give: value => waiting.shift()?.(value),
      reads: () => reads
    }
  },
  'a Readable' () {
    let releases = 0
    let reads = 0
    const source = new Readable({ objectMode: true, read () { reads++ } })
    const { destroy } = source
    source.destroy = function (...args) {
      // The stream's own iterator destroys it as well, when it is told of the first.
      if (!this.destroyed) releases++
      return destroy.apply(this, args)
    }
    return { source, releases: () => releases, give: value => source.push(value), reads: () => reads }
  },
  'a ReadableStream' () {
    let releases = 0
    let reads = 0
    let controller!: ReadableStreamDefaultController
    const source = new ReadableStream({
      start (_controller) { controller = _controller },
      pull () { reads++ },
      cancel () { releases++ }
    }, { highWaterMark: 0 })
    return { source, releases: () => releases, give: value => { if (releases === 0) controller.enqueue(value) }, reads: () => reads }
  }
}

interface Scenario {
  handler: (reply: FastifyReply, held: Held) => unknown
  request?: RawRequest
  options?: ServeOptions
  /** Sent by the client once the head is there; without it the response ends by itself. */
  leaves?: boolean
  /** The source was never asked for an item. */
  unread?: boolean
  after?: (held: Held) => unknown
}

let resolveLate!: (source: EventSource) => void
const late = () => new Promise<EventSource>(resolve => { resolveLate = resolve })

const scenarios: Record<string, Scenario> = {
  'the client leaves while it is waiting': { handler: (reply, { source }) => reply.sse(source), leaves: true },
  'the client leaves while a function\'s source is waiting': { handler: (reply, { source }) => reply.sse(async () => source), leaves: true },
  'stream.close() is called while it is waiting': {
    handler: (reply, { source }) => reply.sse(stream => {
      setImmediate(stream.close)
      return source
    })
  },
  'stream.close() was called before it is given': {
    handler: (reply, { source }) => reply.sse(stream => {
      stream.close()
      return source
    }),
    unread: true
  },
  'it gives an item that is no event': {
    handler (reply, { source, give }) {
      setImmediate(give, { data: 'fine' })
      setImmediate(() => setImmediate(give, { wrong: 1 }))
      return reply.sse(source)
    }
  },
  'it gives an item that is no event as its first': {
    handler (reply, { source, give }) {
      setImmediate(give, { wrong: 1 })
      return reply.sse(source, { commitAfter: Infinity })
    }
  },
  'the handler throws before the head': {
    handler (reply, { source }) {
      reply.sse(source, { commitAfter: Infinity })
      throw new Error('before the head')
    }
  },
  'an onSend hook fails': {
    handler: (reply, { source }) => reply.sse(source),
    options: { before: app => { app.addHook('onSend', async (request, reply) => { if (reply.statusCode === 200) throw new Error('the hook') }) } }
  },
  'its signal aborts': { handler: (reply, { source }) => reply.sse(source, { signal: AbortSignal.abort() }) },
  'its time is over': { handler: (reply, { source }) => reply.sse(source, { maxDuration: 1 }) },
  'the request is a HEAD': { handler: (reply, { source }) => reply.sse(source), request: { method: 'HEAD' }, unread: true },
  'the status is 204': { handler: (reply, { source }) => reply.code(204).sse(source), unread: true },
  'the status is 304': { handler: (reply, { source }) => reply.code(304).sse(source), unread: true },
  'the client has had the end of `reconnect: false` before': {
    handler: (reply, { source }) => reply.sse(source, { reconnect: false }),
    request: { headers: ['Last-Event-ID: fastify-streaming:end'] },
    unread: true
  },
  'an option is invalid': { handler: (reply, { source }) => reply.sse(source, { heartbeat: -1 }), unread: true },
  'it is the second on its reply': {
    handler (reply, { source }) {
      const outcome = reply.sse(['first'])
      try { reply.sse(source) } catch {}
      return outcome
    },
    unread: true
  },
  'the reply was sent before': {
    handler (reply, { source }) {
      reply.send('sent')
      try { reply.sse(source) } catch {}
    },
    unread: true
  },
  'the client has left before a promise of it resolves': {
    handler: reply => reply.sse(late),
    leaves: true,
    after: ({ source }) => resolveLate(source),
    unread: true
  },
  'the stream was closed before a promise of it resolves': {
    handler: reply => reply.sse(stream => {
      setImmediate(stream.close)
      return late()
    }),
    after: ({ source }) => resolveLate(source),
    unread: true
  }
}

for (const [kind, hold] of Object.entries(holders)) {
  t.test(`${kind} is released exactly once when`, async t => {
    for (const [name, { handler, request, options, leaves, unread = false, after }] of Object.entries(scenarios)) {
      await t.test(name, async t => {
        const held = hold()
        const server = await serve(t, (request, reply) => handler(reply, held), options)
        if (leaves === true) {
          const client = open(t, server.port, request)
          await client.until('\r\n\r\n')
          client.destroy()
          await server.outcome()
        } else {
          await fetchRaw(t, server.port, request)
        }
        await after?.(held)
        await turn(2)
        t.equal(held.releases(), 1)
        if (unread) t.equal(held.reads(), 0)
        held.give({ data: 'too late' })
        await turn(2)
        t.equal(held.releases(), 1)
      })
    }
  })
}

t.test('a source that has finished by itself is not released', async t => {
  t.test('an async iterator gets no return()', async t => {
    let returned = 0
    const items = ['a']
    const source = {
      [Symbol.asyncIterator]: () => ({
        next: async () => items.length > 0 ? { done: false, value: items.shift() } : { done: true, value: undefined },
        return: async () => { returned++; return { done: true, value: undefined } }
      })
    }
    t.equal(await bodyOf(t, source as AsyncIterable<unknown>), 'data: a\n\n')
    t.equal(returned, 0)
  })

  t.test('an iterator gets no return(), also when it throws', async t => {
    let returned = 0
    const iterable = (last: () => IteratorResult<unknown>) => ({
      [Symbol.iterator]: () => ({ next: last, return: () => { returned++; return { done: true, value: undefined } } })
    })
    t.equal(await bodyOf(t, iterable(() => ({ done: true, value: undefined })) as Iterable<unknown>), '')
    t.match(await bodyOf(t, iterable(() => { throw new Error('itself') }) as Iterable<unknown>), 'itself')
    t.equal(returned, 0)
  })

  t.test('an async iterator that rejects gets no return()', async t => {
    let returned = 0
    const source = {
      [Symbol.asyncIterator]: () => ({ next: async () => { throw new Error('itself') }, return: async () => { returned++; return { done: true, value: undefined } } })
    }
    t.match(await bodyOf(t, source as AsyncIterable<unknown>), 'itself')
    t.equal(returned, 0)
  })

  t.test('a ReadableStream is not cancelled', async t => {
    let cancels = 0
    t.equal(await bodyOf(t, new ReadableStream({ start (controller) { controller.enqueue('a'); controller.close() }, cancel () { cancels++ } })), 'data: a\n\n')
    t.equal(cancels, 0)
  })
})

t.test('an iterator that gives what is no result is released', async t => {
  for (const symbol of [Symbol.iterator, Symbol.asyncIterator]) {
    let returned = 0
    const source = { [symbol]: () => ({ next: () => undefined, return: () => { returned++; return { done: true, value: undefined } } }) }
    t.match(await bodyOf(t, source as unknown as Iterable<unknown>), '"statusCode":500')
    t.equal(returned, 1)
  }
})

t.test('a promise as an item of an async iterator is an invalid event, and its rejection kills nobody', async t => {
  const source = { [Symbol.asyncIterator]: () => ({ next: () => ({ done: false, value: Promise.reject(new Error('nobody asked')) }) }) }
  t.match(await bodyOf(t, source as unknown as AsyncIterable<unknown>), 'FST_STREAM_INVALID_EVENT')
  await turn()
})

t.test('an iterator whose promised item rejects is released', async t => {
  let returned = 0
  const source = { [Symbol.iterator]: () => ({ next: () => ({ done: false, value: Promise.reject(new Error('the item')) }), return: () => { returned++; return { done: true, value: undefined } } }) }
  t.match(await bodyOf(t, source), 'the item')
  t.equal(returned, 1)
})

t.test('a generator that is left at a yield runs its finally', async t => {
  const cleaned = new PassThrough()
  const server = await serve(t, (request, reply) => reply.sse((async function * (): AsyncGenerator<string> {
    try {
      for (;;) {
        yield 'tick'
        await turn()
      }
    } finally {
      cleaned.emit('cleaned')
    }
  })()))
  const client = open(t, server.port)
  await client.until('tick')
  client.destroy()
  await once(cleaned, 'cleaned')
  t.match(await server.outcome(), { reason: 'disconnected' })
})

t.test('the outcome does not wait for a generator that does not listen to the signal', async t => {
  const server = await serve(t, (request, reply) => reply.sse((async function * () {
    await new Promise(() => {})
    yield 'never'
  })()))
  const client = open(t, server.port)
  await client.until('\r\n\r\n')
  client.destroy()
  t.match(await server.outcome(), { reason: 'disconnected' })
})

t.test('what goes wrong in a release disturbs nobody', async t => {
  const item = () => ({ next: async () => ({ done: false, value: {} }) })
  for (const [name, source] of [
    ['return() throws', { [Symbol.asyncIterator]: () => ({ ...item(), return () { throw new Error('release') } }) }],
    ['return() rejects', { [Symbol.asyncIterator]: () => ({ ...item(), async return () { throw new Error('release') } }) }],
    ['there is no return()', { [Symbol.asyncIterator]: item }],
    ['cancel() throws', new ReadableStream({ pull (controller) { controller.enqueue({}) }, cancel () { throw new Error('release') } })],
    ['destroy() fails', new Readable({ objectMode: true, read () { this.push({}) }, destroy (cause, done) { done(new Error('release')) } })]
  ] as Array<[string, EventSource]>) {
    await t.test(String(name), async t => {
      t.match(await bodyOf(t, source), 'FST_STREAM_INVALID_EVENT')
    })
  }
})

t.test('streams that fail', async t => {
  t.test('a file that is not there is an ordinary error reply, if the head waits for it', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(createReadStream('/not/there'), { commitAfter: Infinity }))
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 500 /)
    t.match(JSON.parse(body), { code: 'ENOENT' })
  })

  t.test('a file that is not there and is never read disturbs nobody', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(createReadStream('/not/there')), {}, app => {
      app.get('/option', (request, reply) => reply.sse(createReadStream('/not/there'), { heartbeat: -1 }))
      app.get('/closed', (request, reply) => reply.sse(stream => {
        stream.close()
        return createReadStream('/not/there')
      }))
    })
    t.match((await fetchRaw(t, port, { method: 'HEAD' })).head, /^HTTP\/1.1 200 /)
    t.match((await fetchRaw(t, port, { path: '/option' })).body, 'FST_STREAM_INVALID_OPTION')
    t.equal((await fetchRaw(t, port, { path: '/closed' })).body, '')
  })

  for (const [name, source] of [
    ['a Readable that fails later', new Readable({ read () { this.push('a'); this.destroy(Object.assign(new Error('later'), { statusCode: 404, code: 'GONE' })) } })],
    ['a ReadableStream that fails later', (() => {
      let isFirst = true
      return new ReadableStream({
        pull (controller) {
          if (isFirst) controller.enqueue('a')
          else controller.error(Object.assign(new Error('later'), { statusCode: 404, code: 'GONE' }))
          isFirst = false
        }
      }, { highWaterMark: 0 })
    })()]
  ] as Array<[string, EventSource]>) {
    t.test(`${name} is a source that throws`, async t => {
      const server = await serve(t, (request, reply) => reply.sse(source))
      t.match((await fetchRaw(t, server.port)).body, '{"code":"GONE","message":"later"}')
      t.match(await server.outcome(), { reason: 'failed', error: { code: 'GONE' } })
    })
  }

  t.test('a Readable that somebody destroys before its end is a source that throws', async t => {
    const source = new Readable({ read () {} })
    const server = await serve(t, (request, reply) => reply.sse(source))
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    source.destroy()
    await client.end()
    t.match(await server.outcome(), { reason: 'failed', error: { code: 'ERR_STREAM_PREMATURE_CLOSE' } })
  })

  t.test('an iterable that cannot give an iterator is an ordinary error reply', async t => {
    t.match(await bodyOf(t, { [Symbol.asyncIterator] () { throw new Error('no iterator') } }), 'no iterator')
    t.match(await bodyOf(t, { [Symbol.iterator] () { throw new Error('no iterator') } }, { heartbeat: -1 }), 'FST_STREAM_INVALID_OPTION')
  })
})
