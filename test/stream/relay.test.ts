import '../fixtures/guard.ts'
import { deepStrictEqual } from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { BlockSplitter } from '../../lib/stream/relay.ts'
import { fakeClock } from '../fixtures/clock.ts'
import { fetchRaw, open } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'
import { parseEventStream } from '../fixtures/whatwg.ts'

interface Upstream {
  url: string
  /** Resolves with the next response, its head sent. */
  response (): Promise<ServerResponse>
  /** Resolves when the connection of the first response has closed. */
  closed: Promise<unknown>
}

/** Another server whose event streams the test writes by hand. */
async function openUpstream (t: Test, status = 200, type = 'text/event-stream'): Promise<Upstream> {
  let onClosed: (value?: unknown) => void
  const responses: ServerResponse[] = []
  const server = createServer((request, response) => {
    response.on('close', () => onClosed())
    response.writeHead(status, type === '' ? {} : { 'content-type': type })
    response.flushHeaders()
    responses.push(response)
    server.emit('responded')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async response () {
      if (responses.length === 0) await once(server, 'responded')
      return responses.shift() as ServerResponse
    },
    closed: new Promise(resolve => { onClosed = resolve })
  }
}

const eventStream = { headers: { 'content-type': 'text/event-stream' } }

/** A response whose body comes in these chunks. */
function responseOf (...chunks: Array<string | Uint8Array>): Response {
  return new Response(ReadableStream.from(chunks.map(chunk => Buffer.from(chunk as string))) as never, eventStream)
}

/** A response whose body never ends, and whether it was cancelled. */
function endless (init: ResponseInit = eventStream): { response: Response, cancelled: Promise<unknown>, cancels: number } {
  const result = { cancels: 0 } as ReturnType<typeof endless>
  result.cancelled = new Promise(resolve => {
    result.response = new Response(new ReadableStream({ cancel (reason) { result.cancels++; resolve(reason) } }), init)
  })
  return result
}

t.test('blocks are relayed byte for byte, whatever is in them', async t => {
  const blocks = ':comment\n\nevent:x\ndata:no space\r\n\r\nunknown: field\n\nid\rdata\r\r\n\ndata: \u00e9\u2713\nretry: 5\n\n'
  const server = await serve(t, (request, reply) => reply.sse(responseOf(blocks)))
  const { body, head } = await fetchRaw(t, server.port)
  t.equal(Buffer.from(body, 'latin1').toString(), blocks)
  t.match(head, /content-type: text\/event-stream\r\n/)
  t.match(await server.outcome(), { reason: 'completed', events: 4, bytes: body.length })
})

t.test('a block is relayed as soon as it is whole, over two sockets', async t => {
  const upstream = await openUpstream(t)
  const { port } = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
  const client = open(t, port)
  const response = await upstream.response()
  response.write('data: 1\n\ndata: 2\n')
  await client.until('data: 1\n\n')
  t.notMatch(client.received, 'data: 2')
  response.end('\n')
  t.match(await client.end(), /data: 2\n\n/)
})

t.test('a function may return a response, resolve with one, and send beside it', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(async stream => {
    stream.send('mine')
    return responseOf('data: theirs\n\n')
  }), {}, app => {
    app.get('/sync', (request, reply) => reply.sse(() => responseOf('data: theirs\n\n')))
  })
  t.equal((await fetchRaw(t, port)).body, 'data: mine\n\ndata: theirs\n\n')
  t.equal((await fetchRaw(t, port, { path: '/sync' })).body, 'data: theirs\n\n')
})

t.test('an unfinished last block is not sent', async t => {
  for (const rest of ['data: 2', 'data: 2\n', 'data: 2\r', 'event: e\ndata: 2\r\n', 'id', '\uFEFF']) {
    const { port } = await serve(t, (request, reply) => reply.sse(responseOf(`data: 1\n\n${rest}`)))
    t.equal((await fetchRaw(t, port)).body, 'data: 1\n\n', JSON.stringify(rest))
  }
})

t.test('a comment line before a block needs no blank line to be passed on, so upstream heartbeats get through', async t => {
  const upstream = await openUpstream(t)
  const server = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
  const client = open(t, server.port)
  const response = await upstream.response()
  response.write(':\n')
  await client.until('\r\n\r\n2\r\n:\n\r\n')
  response.write(': b\r')
  await client.until(': b\r')
  response.write('\ndata: 1\n: inside a block\n')
  response.end('\n')
  t.match(await client.end(), 'data: 1\n: inside a block\n\n')
  t.match(await server.outcome(), { events: 1 })
})

t.test('a byte order mark at the start is left out, because it would break what stands before it', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(responseOf('\uFEFFdata: 1\n\n'), { retry: 7 }))
  t.equal((await fetchRaw(t, port)).body, 'retry: 7\ndata: 1\n\n')
})

t.test('a byte order mark anywhere else is relayed, and so are the first bytes of one that is none', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(responseOf(Buffer.of(0xEF), Buffer.of(0xBB, 10), 'data: \uFEFF\n\n')))
  t.same(Buffer.from((await fetchRaw(t, port)).body, 'latin1'), Buffer.concat([Buffer.of(0xEF, 0xBB, 10), Buffer.from('data: \uFEFF\n\n')]))
})

t.test('the events of the outcome are the blocks that are more than comments', async t => {
  const server = await serve(t, (request, reply) => reply.sse(responseOf(': a\n\ndata: 1\n\n\n\nid: 2\n\n: b\n: c\ndata: 3\n\n')))
  await fetchRaw(t, server.port)
  t.match(await server.outcome(), { events: 3 })
})

t.test('cut anywhere', async t => {
  const piece = fc.constantFrom('\r', '\n', '\r\n', '\r\n\r\n', '\n\n', '\r\r', ':', ': c', 'data: x', 'id', 'event: e', '\uFEFF', 'é', ' ')
  const stream = fc.array(piece, { maxLength: 14 }).map(pieces => Buffer.from(pieces.join('')))

  /** What is given out for a stream in these chunks; `between` stands between any two pushes. */
  function relay (chunks: Uint8Array[], between = ''): { text: string, events: number } {
    const splitter = new BlockSplitter(1_000_000)
    let text = ''
    let events = 0
    for (const chunk of chunks) {
      const blocks = splitter.push(chunk)
      if (blocks !== undefined) {
        events += blocks.events
        text += Buffer.from(blocks.bytes).subarray(blocks.continuesLineBreak && between !== '' ? 1 : 0).toString('latin1')
      }
      text += between
    }
    return { text, events }
  }

  function cut (bytes: Buffer, cuts: number[]): Uint8Array[] {
    const at = [0, ...cuts.map(cut => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
    return at.slice(1).map((end, i) => bytes.subarray(at[i], end))
  }

  /** The bytes up to the last blank line, or comment line between blocks, without the byte order mark. */
  function whole (bytes: Buffer): string {
    const text = bytes.toString('latin1').replace(/^\u00EF\u00BB\u00BF/, '')
    let end = 0
    let hasField = false
    for (const { 0: line, 1: content, index } of text.matchAll(/([^\r\n]*)(?:\r\n|\r|\n)/g)) {
      if (content === '') hasField = false
      else if (!content.startsWith(':')) hasField = true
      if (!hasField) end = index + line.length
    }
    return text.slice(0, end)
  }

  t.test('a stream gives the same bytes and counts the same events', async t => {
    t.doesNotThrow(() => fc.assert(fc.property(stream, fc.array(fc.nat(200), { maxLength: 8 }), (bytes, cuts) => {
      const uncut = relay([bytes])
      deepStrictEqual(uncut.text, whole(bytes))
      deepStrictEqual(relay(cut(bytes, cuts)), uncut)
      deepStrictEqual(relay([...bytes].map(byte => Buffer.of(byte))), uncut)
    }), { numRuns: 1000 }))
  })

  t.test('a stream with heartbeats wherever they may stand means the same', async t => {
    t.doesNotThrow(() => fc.assert(fc.property(stream, fc.array(fc.nat(200), { maxLength: 8 }), (bytes, cuts) => {
      // The retry line keeps a second byte order mark from becoming the first one.
      const { comments: _, ...uncut } = parseEventStream(Buffer.from(`retry: 1\n${whole(bytes)}`, 'latin1'))
      const { comments: heartbeats, ...beaten } = parseEventStream(Buffer.from(`retry: 1\n${relay(cut(bytes, cuts), ':beat\n').text}`, 'latin1'))
      deepStrictEqual(beaten, uncut)
      deepStrictEqual(heartbeats.filter(comment => comment === 'beat').length, cuts.length + 1)
    }), { numRuns: 1000 }))
  })

  t.test('every cut of one stream gives the same bytes over a socket', async t => {
    const bytes = Buffer.from('\uFEFFid: 1\r\ndata: é\r\n\r\n: c\r\r\ndata: 2\n\ndata: 3\r\n\r\n')
    let cutAt = 0
    const { port } = await serve(t, (request, reply) => reply.sse(responseOf(bytes.subarray(0, cutAt), bytes.subarray(cutAt)), { retry: 5 }), {
      // The first blocks wait for the head, and the retry line is put before them.
      before: app => { app.addHook('onSend', async () => {}) }
    })
    for (; cutAt <= bytes.length; cutAt++) {
      const { body } = await fetchRaw(t, port)
      t.equal(Buffer.from(body, 'latin1').toString(), 'retry: 5\nid: 1\r\ndata: é\r\n\r\n: c\r\r\ndata: 2\n\ndata: 3\r\n\r\n', `cut at ${cutAt}`)
    }
  })
})

t.test('heartbeats', async t => {
  t.test('stand between blocks, never inside one that is on its way', async t => {
    const upstream = await openUpstream(t)
    const { port } = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
    const client = open(t, port)
    const response = await upstream.response()
    response.write('data: 1\n\ndata: 2\n')
    const clock = fakeClock(t)
    await client.until('data: 1\n\n')
    clock.tick(20_000)
    await client.until(':\n')
    response.end('\n')
    t.equal((await client.end()).split('\r\n\r\n').slice(1).join('\r\n\r\n'), '9\r\ndata: 1\n\n\r\n2\r\n:\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n')
  })

  t.test('between the CR and the LF of a blank line make no second blank line', async t => {
    const upstream = await openUpstream(t)
    const { port } = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
    const client = open(t, port)
    const response = await upstream.response()
    response.write('data: 1\r\n\r')
    const clock = fakeClock(t)
    await client.until('data: 1\r\n\r')
    clock.tick(20_000)
    await client.until(':\n')
    response.write('\n')
    response.end('data: 2\n\n')
    t.match(await client.end(), 'data: 1\r\n\r\r\n2\r\n:\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n')
  })
})

t.test('a block over maxBuffered', async t => {
  t.test('fails the stream, after the whole blocks before it', async t => {
    for (const chunks of [['data: 1\n\ndata: 23456789\n\n'], ['data: 1\n\n', 'data: 2345678'], ['data: 1\n\nda', 'ta: 23456', '789']]) {
      const server = await serve(t, (request, reply) => reply.sse(responseOf(...chunks), { maxBuffered: 12 }))
      const { body } = await fetchRaw(t, server.port)
      t.equal(body, 'data: 1\n\nevent: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
      t.match(await server.outcome(), { reason: 'failed', events: 1, error: { code: 'FST_STREAM_INVALID_SOURCE', message: /at most 12 bytes \(maxBuffered\)/ } })
    }
  })

  t.test('cancels the upstream, also one that would never end the block', async t => {
    const upstream = await openUpstream(t)
    const { port } = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url), { maxBuffered: 1000 }))
    const reply = fetchRaw(t, port)
    const response = await upstream.response()
    response.write(`data: ${'x'.repeat(1000)}`)
    await upstream.closed
    t.match((await reply).head, /^HTTP\/1.1 502 /)
  })

  t.test('is one byte over it: a block of exactly maxBuffered passes, and many small ones do', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(responseOf('data: 2345\n\ndata: 2345\n\ndata: 2345\n\n'), { maxBuffered: 12 }))
    t.equal((await fetchRaw(t, port)).body, 'data: 2345\n\ndata: 2345\n\ndata: 2345\n\n')
  })
})

t.test('a response that cannot be relayed', async t => {
  for (const [name, status, type, rule] of [
    ['is no 2xx', 503, 'text/event-stream', /2xx status, got '503'/],
    ['is a redirect that was not followed', 304, 'text/event-stream', /2xx status, got '304'/],
    ['is of another type', 200, 'application/json', /type text\/event-stream, got 'application\/json'/],
    ['is of a type that only starts alike', 200, 'text/event-streams', /type text\/event-stream/],
    ['is of no type', 200, '', /type text\/event-stream, got 'null'/]
  ] as const) {
    t.test(`because it ${name}: 502`, async t => {
      const upstream = await openUpstream(t, status, type)
      const server = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
      const { head, body } = await fetchRaw(t, server.port)
      t.match(head, /^HTTP\/1.1 502 Bad Gateway/)
      t.match(JSON.parse(body), { statusCode: 502, code: 'FST_STREAM_INVALID_SOURCE', message: rule })
      t.match(await server.outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_SOURCE' } })
    })
  }

  t.test('is cancelled', async t => {
    const upstream = endless({ status: 500 })
    const { port } = await serve(t, (request, reply) => reply.sse(upstream.response))
    await fetchRaw(t, port)
    await upstream.cancelled
    t.equal(upstream.cancels, 1)
  })

  t.test('because somebody has read it, or is reading it: 502', async t => {
    const read = responseOf('data: 1\n\n')
    await read.text()
    const locked = responseOf('data: 1\n\n')
    locked.body?.getReader()
    const { port } = await serve(t, (request, reply) => reply.sse(request.url === '/' ? read : locked), {}, app => {
      app.get('/locked', (request, reply) => reply.sse(locked))
    })
    for (const path of ['/', '/locked']) {
      const { head, body } = await fetchRaw(t, port, { path })
      t.match(head, /^HTTP\/1.1 502 /)
      t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: /whose body nobody has read/ })
    }
  })

  t.test('because its body is not bytes: 502', async t => {
    const response = Object.create(Response.prototype, {
      status: { value: 200 },
      headers: { value: new Headers(eventStream.headers) },
      bodyUsed: { value: false },
      body: { value: Readable.from(['data: 1\n\n']) }
    })
    const { port } = await serve(t, (request, reply) => reply.sse(response))
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 502 /)
    t.match(JSON.parse(body), { message: /whose body is bytes, got 'a string'/ })
  })
})

t.test('the type may have parameters and any case', async t => {
  for (const type of ['text/event-stream; charset=utf-8', 'text/event-stream;charset=utf-8', 'Text/Event-Stream ; x=y']) {
    const { port } = await serve(t, (request, reply) => reply.sse(new Response('data: 1\n\n', { headers: { 'content-type': type } })))
    t.equal((await fetchRaw(t, port)).body, 'data: 1\n\n', type)
  }
})

t.test('a response without a body is one that has nothing to relay', async t => {
  const server = await serve(t, (request, reply) => reply.sse(new Response(null, { status: 204, ...eventStream })))
  t.equal((await fetchRaw(t, server.port)).body, '')
  t.match(await server.outcome(), { reason: 'completed', events: 0 })
})

t.test('a response whose body is a Node stream, as of other fetch implementations, is relayed and released', async t => {
  const body = Readable.from([Buffer.from('data: 1\n\n')])
  const response = { [Symbol.toStringTag]: 'Response', status: 200, headers: new Headers(eventStream.headers), bodyUsed: false, body }
  const { port } = await serve(t, (request, reply) => reply.sse(response as unknown as Response, {}))
  t.equal((await fetchRaw(t, port)).body, 'data: 1\n\n')
})

t.test('an upstream that breaks off is a source that throws', async t => {
  const upstream = await openUpstream(t)
  const server = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
  const client = open(t, server.port)
  const response = await upstream.response()
  response.write('data: 1\n\ndata: 2\n')
  await client.until('data: 1\n\n')
  response.destroy()
  t.match(await client.end(), /event: error\ndata: \{"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"\}\n\n/)
  t.notMatch(client.received, 'data: 2')
  t.match(await server.outcome(), { reason: 'failed', events: 1, error: { name: 'TypeError', message: 'terminated' } })
})

t.test('the upstream is cancelled, once', async t => {
  t.test('when the client leaves while the upstream is silent', async t => {
    const upstream = await openUpstream(t)
    const server = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    client.destroy()
    await upstream.closed
    t.match(await server.outcome(), { reason: 'disconnected' })
  })

  t.test('when the client leaves while blocks are being sent', async t => {
    const upstream = await openUpstream(t)
    const server = await serve(t, async (request, reply) => reply.sse(await fetch(upstream.url)))
    const client = open(t, server.port)
    const response = await upstream.response()
    const timer = setInterval(() => response.write('data: 1\n\ndata: half'), 1)
    t.teardown(() => clearInterval(timer))
    await client.until('data: 1\n\n')
    client.destroy()
    await upstream.closed
    t.match(await server.outcome(), { reason: 'disconnected' })
  })

  t.test('when the stream is closed', async t => {
    const upstream = endless()
    const { port } = await serve(t, (request, reply) => reply.sse(async stream => {
      setImmediate(stream.close)
      return upstream.response
    }))
    await fetchRaw(t, port)
    await upstream.cancelled
    t.equal(upstream.cancels, 1)
  })

  t.test('when the client has left before the function resolved with the response', async t => {
    const upstream = await openUpstream(t)
    let resolve!: (response: Response) => void
    const server = await serve(t, (request, reply) => reply.sse(() => new Promise<Response>(_resolve => { resolve = _resolve })))
    const client = open(t, server.port)
    await client.until('\r\n\r\n')
    client.destroy()
    await server.outcome()
    resolve(await fetch(upstream.url))
    await upstream.closed
  })

  for (const [name, request, call] of [
    ['for a HEAD request', { method: 'HEAD' }, (reply, response) => reply.sse(response)],
    ['for a reply that has no body', {}, (reply, response) => reply.code(204).sse(response)],
    ['for an invalid option', {}, (reply, response) => reply.sse(response, { heartbeat: -1 })],
    ['for an error before the head', {}, (reply, response) => {
      reply.sse(response, { commitAfter: Infinity })
      throw new Error('before the head')
    }]
  ] as Array<[string, object, (reply: { sse: Function, code: Function }, response: Response) => unknown]>) {
    t.test(name, async t => {
      const upstream = endless()
      const { port } = await serve(t, (request, reply) => call(reply as never, upstream.response))
      await fetchRaw(t, port, request)
      await upstream.cancelled
      t.equal(upstream.cancels, 1)
    })
  }

  t.test('for a second sse() on one reply', async t => {
    const upstream = endless()
    const { port } = await serve(t, (request, reply) => {
      const outcome = reply.sse(['first'])
      t.throws(() => reply.sse(upstream.response), { code: 'FST_STREAM_ALREADY_STREAMING' })
      return outcome
    })
    t.equal((await fetchRaw(t, port)).body, 'data: first\n\n')
    await upstream.cancelled
    t.equal(upstream.cancels, 1)
  })

  t.test('never when it has been read already by somebody else', async t => {
    const response = responseOf('data: 1\n\n')
    const text = response.text()
    const { port } = await serve(t, (request, reply) => reply.sse(response, { heartbeat: -1 }))
    await fetchRaw(t, port)
    t.equal(await text, 'data: 1\n\n')
  })
})

t.test('with `reconnect: false` the end event follows the last whole block', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse(responseOf('data: 1\n\ndata: half'), { reconnect: false }))
  t.equal((await fetchRaw(t, port)).body, 'data: 1\n\nevent: end\nid: fastify-streaming:end\ndata: {}\n\n')
})
