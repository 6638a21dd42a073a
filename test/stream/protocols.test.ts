import '../fixtures/guard.ts'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { connect, dechunk, fetchRaw, open, requestText } from '../fixtures/raw.ts'
import { soon, Teapot } from '../fixtures/samples.ts'
import { serve, troubles, type ServeOptions, type TestServer } from '../fixtures/server.ts'
import { cert, key } from '../fixtures/tls.ts'
import type { EventStream } from '../../lib/index.ts'

const silence = (): undefined => {}

function coreLines ({ logs }: TestServer): string[] {
  return logs.map(line => line.msg).filter(msg => !/^(Server listening|incoming request|request completed|stream closed$)/.test(msg))
}

type Numbered = FastifyRequest<{ Querystring: { n: string } }>

function withoutDate (text: string): string {
  return text.replace(/^Date: .*\r\n/mg, '')
}

const head = (...lines: string[]): string => [
  'HTTP/1.1 200 OK', 'content-type: text/event-stream', 'cache-control: no-cache, no-transform', 'x-accel-buffering: no', ...lines
].join('\r\n') + '\r\n\r\n'

t.test('inject', async t => {
  t.test('gives a finite stream as a whole', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x', 'y')))
    const response = await server.app.inject('/')
    t.equal(response.statusCode, 200)
    t.match(response.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
    t.equal(response.body, 'data: x\n\ndata: y\n\n')
    t.match(await server.outcome(), { reason: 'completed', events: 2, bytes: 18 })
    t.strictSame(troubles(server), [])
  })

  t.test('gives an error before the head', async t => {
    const { app } = await serve(t, (request, reply) => reply.sse(async () => { throw new Teapot('short and stout') }))
    const response = await app.inject('/')
    t.equal(response.statusCode, 418)
    t.match(response.json(), { code: 'TEAPOT' })
  })

  t.test('gives HEAD its head', async t => {
    const { app } = await serve(t, (request, reply) => reply.sse(soon('x')))
    const response = await app.inject({ method: 'HEAD', url: '/' })
    t.match(response, { statusCode: 200, headers: { 'content-type': 'text/event-stream' }, body: '' })
  })

  t.test('with payloadAsStream gives an endless stream, event by event, until its signal aborts', async t => {
    const server = await serve(t, (request, reply) => reply.sse(async function * (stream) {
      for (let n = 0; ; n++) { await turn(); yield String(n) }
    }))
    const controller = new AbortController()
    const response = await server.app.inject({ url: '/', payloadAsStream: true, signal: controller.signal })
    t.equal(response.statusCode, 200)
    const body = response.stream()
    body.on('error', silence)
    let text = ''
    for await (const chunk of body) {
      text += String(chunk)
      if (text.includes('data: 3\n\n')) break
    }
    t.match(text, /^data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n/)
    controller.abort()
    t.match(await server.outcome(), { reason: 'disconnected' })
  })

  t.test('with payloadAsStream gives a finite stream its end', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x')))
    const response = await server.app.inject({ url: '/', payloadAsStream: true })
    let text = ''
    for await (const chunk of response.stream()) text += String(chunk)
    t.equal(text, 'data: x\n\n')
    t.match(await server.outcome(), { reason: 'completed' })
  })

  t.test('with a signal that aborts before the head ends the stream', async t => {
    const server = await serve(t, (request, reply) => reply.sse(silence, { commitAfter: Infinity }))
    const controller = new AbortController()
    const response = server.app.inject({ url: '/', signal: controller.signal })
    await server.logged('incoming request')
    controller.abort()
    await t.rejects(response)
    t.match(await server.outcome(), { reason: 'disconnected' })
  })
})

t.test('HTTP/1.0', async t => {
  t.test('gets the body as it is, up to the end of the connection', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x', 'y')))
    const { text } = await fetchRaw(t, server.port, { version: '1.0' })
    t.equal(withoutDate(text), head('Connection: close') + 'data: x\n\ndata: y\n\n')
    t.match(await server.outcome(), { reason: 'completed', events: 2 })
    t.strictSame(troubles(server), [])
  })

  t.test('gets each event at once', async t => {
    const server = await serve(t, async (request, reply) => { const stream = await reply.sse(); await stream.send('x') })
    const client = open(t, server.port, { version: '1.0' })
    await client.until('data: x\n\n')
    client.destroy()
    t.match(await server.outcome(), { reason: 'disconnected' })
  })

  t.test('with keep-alive ends with the connection all the same', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x')))
    const text = await open(t, server.port, { version: '1.0', headers: ['Connection: keep-alive'] }).end()
    t.equal(withoutDate(text), head('Connection: close') + 'data: x\n\n')
  })
})

t.test('a connection of HTTP/1.1', async t => {
  t.test('is kept alive for the next stream', async t => {
    const server = await serve(t, (request: Numbered, reply) => reply.sse(soon(request.query.n)), { fastify: { keepAliveTimeout: 5000 } })
    const client = connect(t, server.port)
    const expected = (n: number) => head('Connection: keep-alive', 'Keep-Alive: timeout=5', 'Transfer-Encoding: chunked') + `9\r\ndata: ${n}\n\n\r\n0\r\n\r\n`
    let before = 0
    for (let n = 1; n <= 3; n++) {
      client.write(requestText({ path: `/?n=${n}`, headers: ['Connection: keep-alive'] }))
      await client.until('\r\n0\r\n\r\n', before)
      t.equal(withoutDate(client.received.slice(before)), expected(n))
      before = client.received.length
    }
    await server.outcome(2)
    t.strictSame(server.outcomes.map(({ reason }) => reason), ['completed', 'completed', 'completed'])
    t.strictSame(troubles(server), [])
  })

  t.test('is closed after the stream with Connection: close', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x')))
    const text = await open(t, server.port, { headers: ['Connection: close'] }).end()
    t.equal(withoutDate(text), head('Connection: close', 'Transfer-Encoding: chunked') + '9\r\ndata: x\n\n\r\n0\r\n\r\n')
    t.match(await server.outcome(), { reason: 'completed' })
  })

  t.test('may carry twelve streams one after the other without a listener left', async t => {
    const counts: number[] = []
    const server = await serve(t, (request, reply) => {
      counts.push(['close', 'drain', 'error', 'timeout'].reduce((sum, name) => sum + request.socket.listenerCount(name), 0))
      return reply.sse(soon('x'))
    })
    const client = connect(t, server.port)
    for (let n = 0; n < 12; n++) {
      const from = client.received.length
      client.write(requestText({ headers: ['Connection: keep-alive'] }))
      await client.until('\r\n0\r\n\r\n', from)
    }
    t.strictSame(counts, Array(12).fill(counts[0]))
  })

  t.test('takes a POST with a JSON body', async t => {
    const server = await serve(t, (request: FastifyRequest<{ Body: { question: string } }>, reply) => reply.sse(soon(request.body.question)))
    const client = connect(t, server.port)
    client.write('POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"question":"x"}')
    t.equal(withoutDate(await client.end()), head('Connection: close', 'Transfer-Encoding: chunked') + '9\r\ndata: x\n\n\r\n0\r\n\r\n')
    t.match(await server.outcome(), { reason: 'completed' })
  })
})

t.test('pipelined requests', async t => {
  const pipelined = (...paths: string[]): string => paths.map(path => requestText({ path, headers: ['Connection: keep-alive'] })).join('')

  function bodies (text: string): string[] {
    return text.split('HTTP/1.1 200 OK').slice(1).map(part => dechunk(part.slice(part.indexOf('\r\n\r\n') + 4)).body)
  }

  t.test('are answered in their order, also when the later stream is ready first', async t => {
    const server = await serve(t, (request: Numbered, reply) => reply.sse(request.query.n === '1' ? soon('slow', 'slower', '1') : soon(request.query.n)))
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1', '/?n=2') + requestText({ path: '/?n=3' }))
    const text = await client.end()
    t.strictSame(bodies(text), ['data: slow\n\ndata: slower\n\ndata: 1\n\n', 'data: 2\n\n', 'data: 3\n\n'])
    await server.outcome(2)
    t.strictSame(server.outcomes.map(({ reason }) => reason), ['completed', 'completed', 'completed'])
    t.strictSame(troubles(server), [])
  })

  t.test('hold back the source of a queued stream, and let it go on later', async t => {
    let asked = 0
    let first: { close (): void } | undefined
    const item = 'x'.repeat(10_000)
    const server = await serve(t, async (request: Numbered, reply) => {
      if (request.query.n === '1') {
        first = await reply.sse()
        return
      }
      await reply.sse((async function * () {
        for (let i = 0; i < 200; i++) { asked++; yield item }
      })())
    })
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1') + requestText({ path: '/?n=2' }))
    await eventually(() => asked > 0)
    await turn(50)
    t.ok(asked < 20, `${asked} items asked for while queued`)
    first?.close()
    const text = await client.end()
    t.equal(bodies(text)[1], `data: ${item}\n\n`.repeat(200))
    t.match(await server.outcome(1), { reason: 'completed', events: 200 })
  })

  t.test('do not count as stalled while they are queued behind another', async t => {
    const streams: EventStream[] = []
    const server = await serve(t, async (request, reply) => { streams.push(await reply.sse({ writeTimeout: 1000, heartbeat: 0 })) })
    const clock = fakeClock(t)
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1') + requestText({ path: '/?n=2' }))
    await eventually(() => streams.length === 2)
    streams[1].send('late')
    await turn(5)
    clock.tick(5000)
    t.equal(streams[1].isOpen, true)
    for (const stream of streams) stream.close()
    t.strictSame(bodies(await client.end()), ['', 'data: late\n\n'])
  })

  t.test('do not count as stalled while they are queued behind another, also when they are whole', async t => {
    let first!: EventStream
    const server = await serve(t, async (request: Numbered, reply) => {
      if (request.query.n === '1') first = await reply.sse({ heartbeat: 0 })
      else await reply.sse(['late'], { writeTimeout: 1000 })
    })
    const clock = fakeClock(t)
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1') + requestText({ path: '/?n=2' }))
    await server.logged('incoming request', 2)
    await turn(5)
    clock.tick(5000)
    t.strictSame(server.outcomes, [])
    first.close()
    const text = await client.end()
    t.match(text, /\r\ncontent-length: 12\r\nDate: .*\r\nConnection: close\r\n\r\ndata: late\n\n$/)
    t.match(await server.outcome(1), { reason: 'completed', events: 1, bytes: 12 })
  })

  t.test('are cut when their client takes no more, also when they are whole', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['x'.repeat(60_000)], { writeTimeout: 5000 }))
    const clock = fakeClock(t)
    const client = connect(t, server.port)
    client.socket.pause()
    client.write(pipelined(...Array<string>(1000).fill('/')))
    let completed
    do {
      completed = server.outcomes.length
      await turn(20)
    } while (server.outcomes.length > completed)
    clock.tick(5000)
    client.socket.resume()
    await client.end()
    await eventually(() => server.app.streaming.open === 0)
    const { closed: { completed: whole, stalled } } = server.app.streaming.stats()
    t.equal(stalled, 1)
    t.equal(whole, completed)
  })

  t.test('settle when the client leaves while a stream is queued behind another', async t => {
    const aborted: string[] = []
    const server = await serve(t, (request: Numbered, reply) => reply.sse((stream, signal) => {
      signal.addEventListener('abort', () => aborted.push(request.query.n))
    }))
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1', '/?n=2', '/?n=3'))
    await server.logged('incoming request', 3)
    await turn(3)
    client.destroy()
    await server.outcome(2)
    t.strictSame(server.outcomes.map(({ reason }) => reason), ['disconnected', 'disconnected', 'disconnected'])
    t.strictSame(aborted.sort(), ['1', '2', '3'])
    t.strictSame(coreLines(server), [])
  })

  t.test('settle when the client leaves while a stream without a head is queued', async t => {
    const server = await serve(t, (request: Numbered, reply) => reply.sse(silence, { commitAfter: Infinity }))
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1', '/?n=2'))
    await server.logged('incoming request', 2)
    client.destroy()
    await server.outcome(1)
    t.strictSame(server.outcomes.map(({ reason }) => reason), ['disconnected', 'disconnected'])
  })

  t.test('settle when the client leaves after a queued stream has ended', async t => {
    const server = await serve(t, (request: Numbered, reply) => reply.sse(request.query.n === '1' ? silence : ['x']))
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1', '/?n=2'))
    await server.logged('incoming request', 2)
    await turn(3)
    client.destroy()
    await server.outcome(1)
    t.strictSame(server.outcomes.map(({ reason }) => reason), ['disconnected', 'disconnected'])
  })

  t.test('are not cut by connectionTimeout once they stream', async t => {
    let first: { close (): void } | undefined
    const server = await serve(t, async (request: Numbered, reply) => {
      const stream = await reply.sse()
      if (request.query.n === '1') {
        first = stream
        return
      }
      first?.close()
      setTimeout(() => { stream.send('late').then(() => stream.close()) }, 150)
    }, { fastify: { connectionTimeout: 50 } })
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1') + requestText({ path: '/?n=2' }))
    t.strictSame(bodies(await client.end()), ['', 'data: late\n\n'])
  })

  t.test('are not cut by connectionTimeout behind an ordinary reply', async t => {
    const server = await serve(t, async (request: Numbered, reply) => {
      if (request.query.n === '1') {
        await turn(5)
        return 'ordinary'
      }
      const stream = await reply.sse()
      setTimeout(() => { stream.send('late').then(() => stream.close()) }, 150)
    }, { fastify: { connectionTimeout: 50 } })
    const client = connect(t, server.port)
    client.write(pipelined('/?n=1') + requestText({ path: '/?n=2' }))
    t.match(await client.end(), /ordinaryHTTP\/1\.1 200 OK\r\n[^]*\r\nc\r\ndata: late\n\n\r\n0\r\n\r\n$/)
  })
})

t.test('HTTPS', async t => {
  const secure: ServeOptions = { fastify: { https: { key, cert } } as never }

  function request (t: Test, { port }: TestServer): Promise<{ response: import('node:http').IncomingMessage, request: import('node:http').ClientRequest }> {
    return new Promise((resolve, reject) => {
      const request = https.get({ port, host: '127.0.0.1', rejectUnauthorized: false, agent: false }, response => resolve({ response, request }))
      request.on('error', reject)
      t.teardown(() => { request.destroy() })
    })
  }

  t.test('carries a stream', async t => {
    const server = await serve(t, (request, reply) => reply.sse(soon('x', 'y')), secure)
    const { response } = await request(t, server)
    t.match(response, { statusCode: 200, headers: { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' } })
    let text = ''
    for await (const chunk of response) text += String(chunk)
    t.equal(text, 'data: x\n\ndata: y\n\n')
    t.match(await server.outcome(), { reason: 'completed', events: 2, bytes: 18 })
    t.strictSame(troubles(server), [])
  })

  t.test('tells of a client that leaves', async t => {
    const server = await serve(t, (request, reply) => reply.sse(silence), secure)
    const { response, request: sent } = await request(t, server)
    response.on('error', silence)
    sent.destroy()
    t.match(await server.outcome(), { reason: 'disconnected' })
    await turn(3)
    t.strictSame(coreLines(server), [])
  })
})

for (const [name, fastify, scheme] of [
  ['HTTP/2 with TLS', { http2: true, https: { key, cert } }, 'https'],
  ['HTTP/2 without TLS', { http2: true }, 'http'],
  ['HTTP/2 with TLS and allowHTTP1', { http2: true, https: { key, cert, allowHTTP1: true } }, 'https']
] as const) {
  t.test(name, async t => {
    const serve2 = (t: Test, handler: (request: FastifyRequest<any>, reply: FastifyReply) => unknown, more: object = {}, setup?: Parameters<typeof serve>[3]) =>
      serve(t, handler, { fastify: { ...fastify, ...more } as never }, setup)

    function session (t: Test, { port }: TestServer, options: object = {}): http2.ClientHttp2Session {
      const client = http2.connect(`${scheme}://127.0.0.1:${port}`, { rejectUnauthorized: false, ...options })
      client.on('error', silence)
      t.teardown(() => { client.destroy() })
      return client
    }

    interface Answer { stream: http2.ClientHttp2Stream, headers: http2.IncomingHttpHeaders, until (text: string): Promise<string>, end: Promise<string> }

    async function get (client: http2.ClientHttp2Session, headers: http2.OutgoingHttpHeaders = {}): Promise<Answer> {
      const stream = client.request({ ':path': '/', ...headers })
      let text = ''
      stream.setEncoding('utf8')
      stream.on('error', silence)
      const received = await new Promise<http2.IncomingHttpHeaders>((resolve, reject) => {
        stream.on('response', resolve)
        stream.on('error', reject)
      })
      stream.on('data', chunk => { text += chunk })
      return {
        stream,
        headers: received,
        until: async wanted => { await eventually(() => text.includes(wanted)); return text },
        end: new Promise(resolve => stream.on('close', () => resolve(text)))
      }
    }

    t.test('carries a stream, with no header that HTTP/2 forbids', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(soon('x', 'y')))
      const answer = await get(session(t, server))
      const { date, ...headers } = answer.headers
      t.strictSame(Object.fromEntries(Object.entries(headers)), {
        ':status': 200, 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no'
      })
      t.equal(await answer.end, 'data: x\n\ndata: y\n\n')
      t.equal(answer.stream.rstCode, 0)
      t.match(await server.outcome(), { reason: 'completed', events: 2, bytes: 18 })
      await server.logged('request completed')
      t.strictSame(troubles(server), [])
    })

    t.test('sends the head before there is an event', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(silence))
      const answer = await get(session(t, server))
      t.equal(answer.headers[':status'], 200)
    })

    t.test('carries many streams in one session', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(soon('x')))
      const client = session(t, server)
      const answers = await Promise.all(Array.from({ length: 30 }, () => get(client)))
      t.strictSame(await Promise.all(answers.map(({ end }) => end)), Array(30).fill('data: x\n\n'))
      await server.outcome(29)
      t.ok(server.outcomes.every(({ reason }) => reason === 'completed'))
      t.strictSame(troubles(server), [])
    })

    t.test('gives an error before the head', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(async () => { throw new Teapot('short and stout') }))
      const answer = await get(session(t, server))
      t.match(answer.headers, { ':status': 418, 'content-type': 'application/json; charset=utf-8' })
      t.match(JSON.parse(await answer.end), { code: 'TEAPOT' })
      t.match(await server.outcome(), { reason: 'failed' })
    })

    t.test('gives the error event of a source that fails after the head', async t => {
      const server = await serve2(t, (request, reply) => reply.sse((function * () { yield 'x'; throw new Teapot('short and stout') })()))
      const answer = await get(session(t, server))
      t.equal(await answer.end, 'data: x\n\nevent: error\ndata: {"code":"TEAPOT","message":"short and stout"}\n\n')
      t.equal(answer.stream.rstCode, 0)
    })

    t.test('gives HEAD its head, and the source is not started', async t => {
      let called = false
      const server = await serve2(t, (request, reply) => reply.sse(() => { called = true }))
      const answer = await get(session(t, server), { ':method': 'HEAD' })
      t.match(answer.headers, { ':status': 200, 'content-type': 'text/event-stream' })
      t.equal(await answer.end, '')
      t.match(await server.outcome(), { reason: 'completed' })
      t.notOk(called)
    })

    t.test('gives 204 no body', async t => {
      const server = await serve2(t, (request, reply) => reply.code(204).sse(['x']))
      const answer = await get(session(t, server))
      t.equal(answer.headers[':status'], 204)
      t.equal(await answer.end, '')
      t.match(await server.outcome(), { reason: 'completed' })
    })

    for (const [code, rstCode] of [['CANCEL', http2.constants.NGHTTP2_CANCEL], ['NO_ERROR', http2.constants.NGHTTP2_NO_ERROR]] as const) {
      t.test(`a client that resets the stream with ${code} has left`, async t => {
        const aborted: boolean[] = []
        const server = await serve2(t, (request, reply) => reply.sse((stream, signal) => {
          signal.addEventListener('abort', () => aborted.push(true))
          stream.send('x')
        }))
        const answer = await get(session(t, server))
        await answer.until('data: x\n\n')
        answer.stream.close(rstCode)
        t.match(await server.outcome(), { reason: 'disconnected', events: 1 })
        t.strictSame(aborted, [true])
        await turn(3)
        t.strictSame(coreLines(server), [])
      })
    }

    t.test('a client that resets the stream before the head has left', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(silence, { commitAfter: Infinity }))
      const client = session(t, server)
      const stream = client.request({ ':path': '/' })
      stream.on('error', silence)
      await server.logged('incoming request')
      stream.close(http2.constants.NGHTTP2_CANCEL)
      t.match(await server.outcome(), { reason: 'disconnected', events: 0 })
      await turn(3)
      t.strictSame(coreLines(server), [])
    })

    t.test('a client that resets the stream with bytes waiting has left, and the stream did not complete', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(['x'.repeat(1_000_000)]))
      const client = session(t, server)
      const stream = client.request({ ':path': '/' })
      stream.on('error', silence)
      await new Promise(resolve => stream.on('response', resolve))
      stream.close(http2.constants.NGHTTP2_CANCEL)
      t.match(await server.outcome(), { reason: 'disconnected' })
    })

    t.test('a session that is destroyed takes all its streams along', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(silence))
      const client = session(t, server)
      await Promise.all([get(client), get(client), get(client)])
      client.destroy()
      await server.outcome(2)
      t.strictSame(server.outcomes.map(({ reason }) => reason), ['disconnected', 'disconnected', 'disconnected'])
      await turn(3)
      t.strictSame(coreLines(server), [])
    })

    t.test('a connection that breaks takes all its streams along', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(silence))
      let socket: net.Socket | undefined
      const client = session(t, server, {
        createConnection: () => {
          const options = { port: server.port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['h2'] }
          socket = scheme === 'https' ? tls.connect(options) : net.connect(options)
          return socket
        }
      })
      await Promise.all([get(client), get(client)])
      socket?.destroy()
      await server.outcome(1)
      t.strictSame(server.outcomes.map(({ reason }) => reason), ['disconnected', 'disconnected'])
    })

    t.test('a stream that is cut is reset', async t => {
      const server = await serve2(t, (request, reply) => reply.sse(stream => {
        for (let i = 0; i < 5; i++) stream.send('x'.repeat(100))
      }, { maxBuffered: 150 }))
      const client = session(t, server)
      const stream = client.request({ ':path': '/' })
      stream.on('error', silence).resume()
      await new Promise(resolve => stream.on('close', resolve))
      t.equal(stream.rstCode, http2.constants.NGHTTP2_INTERNAL_ERROR)
      t.match(await server.outcome(), { reason: 'overflow' })
    })

    t.test('holds the source back while the client does not read', async t => {
      let asked = 0
      const item = 'x'.repeat(10_000)
      const server = await serve2(t, (request, reply) => reply.sse((async function * () {
        for (let i = 0; i < 300; i++) { asked++; yield item }
      })()))
      const client = session(t, server)
      const stream = client.request({ ':path': '/' })
      stream.setEncoding('utf8')
      stream.pause()
      await eventually(() => asked > 0)
      let last = -1
      for (let same = 0; same < 50; same = asked === last ? same + 1 : 0) { last = asked; await turn() }
      t.ok(asked < 60, `${asked} items asked for`)
      let text = ''
      stream.on('data', chunk => { text += chunk }).resume()
      await new Promise(resolve => stream.on('close', resolve))
      t.equal(text, `data: ${item}\n\n`.repeat(300))
      t.match(await server.outcome(), { reason: 'completed', events: 300 })
    })

    t.test('handlerTimeout and connectionTimeout do not cut it', async t => {
      const server = await serve2(t, silence, { connectionTimeout: 50 }, app => {
        app.get('/slow', { handlerTimeout: 50 }, async (request, reply) => {
          const stream = await reply.sse()
          setTimeout(() => { stream.send('late').then(() => stream.close()) }, 200)
        })
      })
      const answer = await get(session(t, server), { ':path': '/slow' })
      t.equal(await answer.end, 'data: late\n\n')
      t.match(await server.outcome(), { reason: 'closed' })
    })

    t.test('a preHandler hook may stream and return reply: the handler does not run', async t => {
      let ran = false
      const server = await serve2(t, async () => { ran = true; return 'handler' }, {}, app => {
        app.addHook('preHandler', async (request, reply) => {
          reply.sse(soon('x'))
          return reply
        })
      })
      const answer = await get(session(t, server))
      t.equal(await answer.end, 'data: x\n\n')
      t.match(await server.outcome(), { reason: 'completed' })
      await turn(5)
      t.notOk(ran)
      t.strictSame(troubles(server), [])
    })

    t.test('onResponse runs when the stream has finished', async t => {
      const order: string[] = []
      const server = await serve2(t, (request, reply) => reply.sse((async function * () {
        yield * soon('x')
        order.push('source ends')
      })()), {}, app => { app.addHook('onResponse', async () => { order.push('onResponse') }) })
      await (await get(session(t, server))).end
      await server.outcome()
      t.strictSame(order, ['source ends', 'onResponse'])
    })
  })
}

t.test('HTTP/2 with allowHTTP1 carries a stream over HTTP/1.1', async t => {
  const server = await serve(t, (request, reply) => reply.sse(soon('x')), { fastify: { http2: true, https: { key, cert, allowHTTP1: true } } as never })
  const response = await new Promise<import('node:http').IncomingMessage>((resolve, reject) => {
    https.get({ port: server.port, host: '127.0.0.1', rejectUnauthorized: false, agent: false }, resolve).on('error', reject)
  })
  let text = ''
  for await (const chunk of response) text += String(chunk)
  t.equal(response.httpVersion, '1.1')
  t.equal(text, 'data: x\n\n')
  t.match(await server.outcome(), { reason: 'completed' })
})
