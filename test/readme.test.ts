import './fixtures/guard.ts'
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import diagnostics from 'node:diagnostics_channel'
import { EventEmitter, once } from 'node:events'
import { createReadStream, existsSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import http from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import path from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { promisify } from 'node:util'
import { runInThisContext } from 'node:vm'
import cookie from '@fastify/cookie'
import compress from '@fastify/compress'
import { EventSource } from 'eventsource'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import ts from 'typescript'
import { request } from 'undici'
import * as errors from '../lib/errors.ts'
import { defaultHistory } from '../lib/brokers/broker.ts'
import { resolveRedisOptions } from '../lib/brokers/redis/options.ts'
import { defaultLag, eventStreamCallRules, resolvePluginOptions, writerCallRules } from '../lib/options.ts'
import { outcomeReasons } from '../lib/stream/lifecycle.ts'
import { fakeClock, turn } from './fixtures/clock.ts'
import { connect, open } from './fixtures/raw.ts'
import { hasRedis, RedisServer } from './fixtures/redis-server.ts'
import { asked, readme, root, run, snippet, snippets, table, write } from './fixtures/readme.ts'
import { cert, key } from './fixtures/tls.ts'

t.setTimeout(120_000)

// Their types declare a reply.sse of their own.
const require = createRequire(import.meta.url)

// By its public name, as users do: this is dist/.
const { default: streaming, createChannels, memoryBroker } = await import('fastify-streaming' as string) as typeof import('../lib/index.ts')

interface Received extends AsyncIterable<EventSourceMessage> {
  status: number
  headers: Record<string, string | string[] | undefined>
  next (): Promise<EventSourceMessage | undefined>
  rest (): Promise<EventSourceMessage[]>
  text (): Promise<string>
  leave (): void
}

/** Opens a URL with undici; events are parsed as they come. */
async function get (t: Test, url: string, options: Parameters<typeof request>[1] = {}): Promise<Received> {
  const client = new AbortController()
  const { statusCode, headers, body } = await request(url, { ...options, signal: client.signal })
  body.on('error', () => {})
  t.teardown(() => client.abort())
  const events = parsed(body)
  return {
    status: statusCode,
    headers,
    [Symbol.asyncIterator]: () => events,
    next: async () => (await events.next()).value as EventSourceMessage | undefined,
    rest: async () => {
      const rest: EventSourceMessage[] = []
      for await (const event of events) rest.push(event)
      return rest
    },
    text: async () => await body.text(),
    leave: () => client.abort()
  }
}

async function * parsed (body: AsyncIterable<Uint8Array>): AsyncGenerator<EventSourceMessage, undefined> {
  const waiting: EventSourceMessage[] = []
  const parser = createParser({ onEvent: event => { waiting.push(event) } })
  const decoder = new TextDecoder()
  for await (const chunk of body) {
    parser.feed(decoder.decode(chunk, { stream: true }))
    yield * waiting.splice(0)
  }
}

async function makeApp (t: Test, options = {}, fastify = {}): Promise<FastifyInstance> {
  const app = Fastify(fastify)
  await app.register(streaming, options)
  closeAfter(t, app)
  return app
}

function closeAfter (t: Test, app: FastifyInstance): void {
  t.teardown(async () => {
    const closed = app.close()
    // undici opens a connection in advance when one breaks. Node counts one that has never sent a request as active.
    app.server.closeAllConnections?.()
    await closed
  })
}

async function listen (app: FastifyInstance): Promise<string> {
  return await app.listen({ host: '127.0.0.1', port: 0 })
}

function addressOf (app: FastifyInstance): string {
  return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
}

/** EventSource as a page of that origin has it. */
function browserOf (t: Test, origin: string) {
  return class extends EventSource {
    constructor (url: string) {
      super(new URL(url, origin))
      t.teardown(() => this.close())
    }
  }
}

/** Resolves when the signal aborts, with what its reason says. */
async function aborted (signal: AbortSignal): Promise<string> {
  if (!signal.aborted) await once(signal, 'abort')
  return signal.reason.reason
}

function values (events: EventSourceMessage[]): string[] {
  return events.map(({ event = 'message', data }) => `${event}: ${data}`)
}

t.test('the smallest example ticks, and its page reads the ticks', async t => {
  const { app } = await run(t, 'smallest', {}, ['app'])
  closeAfter(t, app)
  const url = addressOf(app)
  const stream = await get(t, `${url}/time`)
  const tick = await stream.next()
  t.equal(stream.headers['content-type'], 'text/event-stream')
  t.equal(tick?.event, 'tick')
  t.type(JSON.parse(tick?.data ?? '').now, 'number')

  const logged = withResolvers<unknown>()
  await run(t, 'smallest-browser', { EventSource: browserOf(t, url), console: { log: logged.resolve } }, ['source'])
  t.type(await logged.promise, 'number')
})

t.test('the package is a plugin for require() as it is', async t => {
  const file = write(t, 'cjs.cjs', `const app = require('fastify')()
app.register(require('fastify-streaming'))
app.ready(() => console.log(app.hasReplyDecorator('sse'), app.hasReplyDecorator('streamWriter')))`)
  const { stdout } = await promisify(execFile)(process.execPath, [file], { env: plainEnvironment() })
  t.equal(stdout.trim(), 'true true')
})

t.test('the chat answers once, also to a page that does not listen for the end', async t => {
  const app = await makeApp(t, { retry: 1 })
  const questions: string[] = []
  const model = { async * ask (question: string) { questions.push(question); yield 'be'; yield 'cause\n'; yield ' so' } }
  await run(t, 'chat', { app, model })
  const statuses: number[] = []
  const again = withResolvers<void>()
  app.addHook('onResponse', async (request, reply) => { if (statuses.push(reply.statusCode) === 3) again.resolve() })
  const url = await listen(app)

  const output: string[] = []
  const ended = withResolvers<void>()
  const { source } = await run(t, 'chat-browser', { EventSource: browserOf(t, url), output: { append: (text: string) => output.push(text) } }, ['source'])
  source.addEventListener('end', ended.resolve)
  await ended.promise
  t.equal(output.join(''), 'because\n so')
  t.equal(source.readyState, 2)

  const other = new EventSource(`${url}/chat?q=how`)
  t.teardown(() => other.close())
  await again.promise
  while (other.readyState !== 2) await setImmediate()
  t.strictSame(statuses, [200, 200, 204])
  t.strictSame(questions, ['why', 'how'])
})

t.test('the chat stops its model when the reader leaves', async t => {
  const app = await makeApp(t)
  const stopped = withResolvers<string>()
  const model = {
    async * ask (question: string, { signal }: { signal: AbortSignal }) {
      yield question
      stopped.resolve(await aborted(signal))
    }
  }
  await run(t, 'chat', { app, model })
  const stream = await get(t, `${await listen(app)}/chat?q=why`)
  t.equal((await stream.next())?.data, 'why')
  stream.leave()
  t.equal(await stopped.promise, 'disconnected')
})

t.test('a relay passes on events byte for byte, and cancels the upstream when the client leaves', async t => {
  const gone = withResolvers<void>()
  const bytes = ': hello\n\nevent: delta\r\ndata: {"a" :1}\r\n\r\n'
  const upstream = http.createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(bytes)
    response.on('close', gone.resolve)
  }).listen(0, '127.0.0.1')
  t.teardown(() => { upstream.closeAllConnections(); upstream.close() })
  await once(upstream, 'listening')
  const app = await makeApp(t)
  await run(t, 'relay', { app, upstream: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}` })
  const { port } = new URL(await listen(app))
  const client = open(t, Number(port), { method: 'POST', path: '/completions', headers: ['Content-Type: application/json', 'Content-Length: 2'] })
  client.write('{}')
  await client.until('data: {"a" :1}\r\n')
  t.match(client.received.replace(/\r\n[0-9a-f]+\r\n/g, ''), bytes)
  client.destroy()
  await gone.promise
})

t.test('a relay answers 502 for a failing upstream and 500 for one that is not there', async t => {
  const upstream = Fastify()
  upstream.post('/', async (request, reply) => reply.code(429).send({ error: 'slow down' }))
  const address = await listen(upstream)
  t.teardown(async () => await upstream.close())
  const app = await makeApp(t)
  await run(t, 'relay', { app, upstream: address })
  const url = `${await listen(app)}/completions`
  const post = { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } } as const
  const bad = await get(t, url, post)
  t.equal(bad.status, 502)
  t.equal(JSON.parse(await bad.text()).code, 'FST_STREAM_INVALID_SOURCE')
  await upstream.close()
  t.equal((await get(t, url, post)).status, 500)
})

t.test('events of an emitter are sent, and its listener is gone when the client is', async t => {
  const app = await makeApp(t)
  const orders = new EventEmitter()
  await run(t, 'emitter', { app, orders })
  const stream = await get(t, `${await listen(app)}/orders`)
  orders.emit('order', { data: { id: 1 } })
  t.equal((await stream.next())?.data, '{"id":1}')
  t.equal(orders.listenerCount('order'), 1)
  stream.leave()
  while (orders.listenerCount('order') > 0) await setImmediate()
})

t.test('a kept stream outlives its handler, and is forgotten when it closes', async t => {
  const app = await makeApp(t)
  const { room } = await run(t, 'rooms', { app }, ['room'])
  const url = `${await listen(app)}/room`
  const stream = await get(t, url)
  while (room.size === 0) await setImmediate()
  const { body } = await request(url, { method: 'POST', body: '"hi"', headers: { 'content-type': 'application/json' } })
  t.strictSame(await body.json(), { listeners: 1 })
  t.strictSame(values([await stream.next() as EventSourceMessage]), ['said: hi'])
  stream.leave()
  while (room.size > 0) await setImmediate()
})

t.test('the example of events gives these bytes', async t => {
  const app = await makeApp(t)
  await run(t, 'events', { app })
  const { body } = await request(`${await listen(app)}/events`)
  t.equal(await body.text(), `data: two
data: lines

event: price
id: 7
data: {"eur":12.5}

: not for the page
event: done
data: 

`)
})

t.test('a single event in place of a source is refused before the head', async t => {
  const app = await makeApp(t)
  app.get('/string', (request, reply) => reply.sse('hello' as never))
  app.get('/event', (request, reply) => reply.sse({ data: 'hello' } as never))
  app.get('/array', (request, reply) => reply.sse([{ data: 'hello' }]))
  const url = await listen(app)
  const refused = await get(t, `${url}/string`)
  t.equal(refused.status, 500)
  t.match(await refused.text(), /FST_STREAM_INVALID_SOURCE.*\[event\]/)
  t.equal((await get(t, `${url}/event`)).status, 500)
  t.strictSame(values(await (await get(t, `${url}/array`)).rest()), ['message: hello'])
})

t.test('a returning client goes on after its last event ID, in the header or in the URL', async t => {
  const app = await makeApp(t)
  const rows = [1, 2, 3].map(id => ({ id, text: `row ${id}` }))
  const db = { rowsAfter: async (last: number) => rows.filter(({ id }) => id > last), changed: async ({ signal }: { signal: AbortSignal }) => await aborted(signal) }
  await run(t, 'resume', { app, db })
  const url = `${await listen(app)}/log`
  const fresh = await get(t, url)
  t.match(await fresh.next(), { id: '1', data: 'row 1' })
  t.match(await (await get(t, url, { headers: { 'last-event-id': '2' } })).next(), { id: '3', data: 'row 3' })
  t.match(await (await get(t, `${url}?lastEventId=1`)).next(), { id: '2', data: 'row 2' })
})

t.test('cookies and headers are on the stream, and a hook may set more', async t => {
  const app = await makeApp(t)
  await app.register(cookie)
  app.addHook('onSend', async (request, reply) => { reply.header('x-hook', 'ran') })
  await run(t, 'headers', { app })
  const { headers } = await get(t, `${await listen(app)}/hello`)
  t.match(headers, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
    'set-cookie': 'seen=yes',
    'x-model': 'small',
    'x-hook': 'ran'
  })
})

t.test('an error before the head is an ordinary error reply', async t => {
  const app = await makeApp(t)
  const db = { find: async (id: string) => id === '1' ? { async * pages () { yield 'first' } } : undefined }
  await run(t, 'not-found', { app, db })
  const url = await listen(app)
  const missing = await get(t, `${url}/reports/2`)
  t.equal(missing.status, 404)
  t.match(JSON.parse(await missing.text()), { message: 'No such report' })
  t.strictSame(values(await (await get(t, `${url}/reports/1`)).rest()), ['page: first'])
})

t.test('an error after the head is told without what is not for clients', async t => {
  const app = await makeApp(t)
  await run(t, 'failing', { app })
  const url = await listen(app)
  t.strictSame(values(await (await get(t, `${url}/steps`)).rest()), [
    'message: one', 'error: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}'
  ])
  t.strictSame(values(await (await get(t, `${url}/known`)).rest()), ['message: one', 'failed: {"why":"disk full"}'])
})

t.test('primes are written until the callback says false', async t => {
  const app = await makeApp(t)
  const nextPrime = (n: number): number => { do n++; while ([2, 3, 5, 7].some(d => n !== d && n % d === 0)); return n }
  await run(t, 'primes', { app, nextPrime })
  const stream = await get(t, `${await listen(app)}/primes`)
  t.match(stream.headers, { 'content-type': 'text/plain; charset=utf-8', 'x-content-type-options': 'nosniff' })
  t.equal(await stream.text(), '2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 67 71 73 79 83 89 97 '.replaceAll(' ', '\n'))
})

t.test('the export asks for one page a round until one is empty', async t => {
  const app = await makeApp(t)
  const asked: number[] = []
  await run(t, 'export', { app, db: { page: async (n: number) => { asked.push(n); return n < 2 ? [{ n }, { n: n + 0.5 }] : [] } } })
  const stream = await get(t, `${await listen(app)}/export`)
  t.equal(stream.headers['content-type'], 'application/x-ndjson')
  t.equal(await stream.text(), '{"n":0}\n{"n":0.5}\n{"n":1}\n{"n":1.5}\n')
  t.strictSame(asked, [0, 1, 2])
})

t.test('a generator and a file are written as they are', async t => {
  const app = await makeApp(t)
  const file = write(t, 'image.png', '\u0089PNG')
  await run(t, 'page', { app, createReadStream, file, report: async function * () { yield 'all is well' } })
  const url = await listen(app)
  const page = await get(t, `${url}/page`)
  t.equal(page.headers['content-type'], 'text/html; charset=utf-8')
  t.equal(await page.text(), '<!doctype html><title>Report</title><h1>Report</h1><p>all is well</p>')
  const image = await get(t, `${url}/file`)
  t.equal(image.headers['content-type'], 'image/png')
  t.equal(await image.text(), '\u0089PNG')
})

t.test('half a body is a failed download', async t => {
  const app = await makeApp(t)
  await run(t, 'truncated', { app })
  const stream = await get(t, `${await listen(app)}/half`)
  t.equal(stream.status, 200)
  await t.rejects(stream.text())
})

t.test('a loop of awaited sends reaches its end with a client that reads, and its stop with one that leaves', async t => {
  const app = await makeApp(t)
  await run(t, 'backpressure', { app })
  const closed = new Promise<any>(resolve => {
    const done = (message: any) => {
      if (message.outcome.reason !== 'disconnected') return
      diagnostics.unsubscribe('fastify-streaming:close', done)
      resolve(message.outcome)
    }
    diagnostics.subscribe('fastify-streaming:close', done)
  })
  const { port } = new URL(await listen(app))
  t.equal((await (await get(t, `http://127.0.0.1:${port}/numbers`)).rest()).length, 1000)
  const client = open(t, Number(port), { path: '/numbers' })
  await client.until('id: 0\n')
  client.destroy()
  t.match(await closed, { reason: 'disconnected' })
})

t.test('a handler may await the outcome', async t => {
  const lines: any[] = []
  const app = await makeApp(t, {}, { logger: { stream: { write: (line: string) => lines.push(JSON.parse(line)) } } })
  await run(t, 'outcome', {
    app, job: async function * () { yield 'half'; throw new Error('lost') }
  })
  await (await get(t, `${await listen(app)}/job`)).rest()
  while (!lines.some(({ msg }) => msg === 'job was not seen to its end')) await setImmediate()
  t.match(lines.find(({ msg }) => msg === 'job was not seen to its end'), { reason: 'failed', events: 1, err: { message: 'lost' } })
  t.match(lines.filter(({ msg }) => msg === 'stream closed'), [{ level: 40, stream: { kind: 'sse', reason: 'failed' } }])
})

t.test('metrics come from the diagnostics channel and from stats()', async t => {
  const app = await makeApp(t)
  const observed = withResolvers<unknown[]>()
  const histogram = { observe: (...values: unknown[]) => observed.resolve(values) }
  await run(t, 'metrics', { app, histogram })
  app.get('/two', (request, reply) => reply.sse(['a', 'b']))
  const url = await listen(app)
  await (await get(t, `${url}/two`)).rest()
  t.match(await observed.promise, [{ route: '/two', kind: 'sse', reason: 'completed' }, Number])
  const stats = JSON.parse(await (await get(t, `${url}/stats`)).text())
  t.match(stats, { open: 0, opened: 1, events: 2, bytes: 18 })
  t.equal(stats.closed.completed, 1)
  t.equal(app.streaming.open, 0)
})

t.test('a client over its limit is told to come back', async t => {
  const app = Fastify()
  closeAfter(t, app)
  await run(t, 'limits', { app, streaming })
  app.get('/', (request, reply) => reply.sse(() => {}))
  const url = await listen(app)
  for (let n = 0; n < 4; n++) await get(t, url)
  const fifth = await get(t, url)
  t.equal(fifth.status, 200)
  t.match(await fifth.text(), /^retry: [1-5]\d{3}\n$/)
})

t.test('without overload: retry a limit is 503 or 429 with Retry-After', async t => {
  for (const [options, status] of [[{ maxStreams: 1 }, 503], [{ maxStreamsPerClient: 1 }, 429]] as const) {
    const app = await makeApp(t, options)
    app.get('/', (request, reply) => reply.sse(() => {}))
    const url = await listen(app)
    await get(t, url)
    const refused = await get(t, url)
    t.equal(refused.status, status)
    t.match(refused.headers['retry-after'], /^\d$/)
    t.equal(JSON.parse(await refused.text()).code, 'FST_STREAM_LIMIT')
  }
})

t.test('the example of a test passes', async t => {
  const file = write(t, 'testing.test.mjs', snippet('testing'))
  const { stdout } = await promisify(execFile)(process.execPath, ['--test', '--test-reporter=tap', file], { env: plainEnvironment() })
  t.match(stdout, /^# pass 1$/m)
})

t.test('the TypeScript example compiles and runs', async t => {
  t.strictSame(compilerErrors(t, 'typescript'), [])
  const { app } = await run(t, 'typescript', {}, ['app'])
  closeAfter(t, app)
  const url = await listen(app)
  t.strictSame((await (await get(t, `${url}/count?from=5`)).rest()).map(({ id, data }) => [id, data]), [['5', '5'], ['6', '6'], ['7', '7']])
  t.strictSame(values(await (await get(t, `${url}/words`)).rest()), ['message: a', 'message: b'])
  t.strictSame(values(await (await get(t, `${url}/open`)).rest()), ['message: hello'])
})

// In production

const noNginx = !existsSync('/usr/sbin/nginx') && process.env.CI !== 'true' && 'there is no /usr/sbin/nginx'

// Its default to the upstream is HTTP/1.0, where its buffering holds small chunks back; HTTP/1.1 is what the README has.
for (const [name, location] of [['proxy_pass alone', 'location / { proxy_pass http://127.0.0.1:3000; }'], ['the configuration of the README', snippet('nginx')]]) {
  t.test(`nginx with ${name} passes on each event and each write at once, and breaks a body that is not whole`, { skip: noNginx }, async t => {
    const app = await makeApp(t, {}, { trustProxy: '127.0.0.1' })
    const gate = new EventEmitter()
    app.get('/', (request, reply) => reply.sse(async function * () {
      yield request.ip
      await once(gate, 'open')
      yield 'second'
    }))
    app.get('/lines', (request, reply) => reply.streamWriter(async function * () {
      yield 'first\n'
      await once(gate, 'open')
      throw new Error('lost')
    }))
    const upstream = await listen(app)
    const port = await freePort()
    t.match(location, 'proxy_pass http://127.0.0.1:3000;')
    const directory = path.dirname(write(t, 'README', ''))
    const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(kind => `${kind}_temp_path ${directory}/${kind};`).join(' ')
    writeFileSync(`${directory}/nginx.conf`, `daemon off; worker_processes 1; pid ${directory}/nginx.pid; error_log ${directory}/error.log;
events {}
http {
  access_log off; ${temp}
  server { listen 127.0.0.1:${port}; ${location.replace('http://127.0.0.1:3000', upstream)} }
}
`)
    await start(t, spawn('/usr/sbin/nginx', ['-e', `${directory}/error.log`, '-c', `${directory}/nginx.conf`, '-p', directory], { stdio: 'ignore' }), port)

    const stream = await get(t, `http://127.0.0.1:${port}/`, { headers: { 'x-forwarded-for': '203.0.113.9' } })
    // Of the addresses that nginx sends on, the last one that is not trusted; nginx itself saw 127.0.0.1.
    t.equal((await stream.next())?.data, '203.0.113.9')
    gate.emit('open')
    t.equal((await stream.next())?.data, 'second')

    const { body } = await request(`http://127.0.0.1:${port}/lines`)
    const chunks = body[Symbol.asyncIterator]()
    t.equal(String((await chunks.next()).value), 'first\n')
    gate.emit('open')
    await t.rejects(chunks.next())
  })
}

t.test('@fastify/compress leaves both kinds of stream alone', async t => {
  const app = Fastify()
  closeAfter(t, app)
  await app.register(compress, { threshold: 0 })
  await app.register(streaming)
  app.get('/sse', (request, reply) => reply.sse(stream => { stream.send('now') }))
  app.get('/writer', (request, reply) => reply.streamWriter(async writer => {
    writer.write('now')
    await aborted(writer.signal)
  }))
  const { port } = new URL(await listen(app))
  for (const path of ['/sse', '/writer']) {
    const client = open(t, Number(port), { path, headers: ['Accept-Encoding: gzip'] })
    await client.until('now')
    t.notMatch(client.received, /content-encoding/i)
  }
})

t.test('silence is broken after heartbeat to 1.5 × heartbeat', async t => {
  const app = Fastify()
  closeAfter(t, app)
  await run(t, 'heartbeat', { app, streaming })
  app.get('/', (request, reply) => reply.sse(() => {}))
  const { port } = new URL(await listen(app))
  const clock = fakeClock(t)
  const client = open(t, Number(port))
  await client.until('\r\n\r\n')
  clock.tick(4_999)
  await turn(5)
  t.notMatch(client.received, /^:$/m)
  clock.tick(2_501)
  await client.until('\r\n:\n')
})

t.test('more than six streams go over one HTTP/2 connection', async t => {
  const { app } = await run(t, 'http2', { Fastify, key, cert }, ['app'])
  closeAfter(t, app)
  await app.register(streaming)
  app.get('/', (request: unknown, reply: any) => reply.sse((stream: any) => { stream.send('hello') }))
  const url = await listen(app)
  const session = http2.connect(url, { rejectUnauthorized: false })
  t.teardown(() => session.destroy())
  const streams = Array.from({ length: 7 }, () => session.request({ ':path': '/' }))
  const chunks = await Promise.all(streams.map(async stream => String((await once(stream, 'data'))[0])))
  t.strictSame(chunks, Array(7).fill('data: hello\n\n'))
  t.equal(app.streaming.open, 7)
})

t.test('CORS with credentials is on the stream, and the preflight of fetch may send Last-Event-ID', async t => {
  const app = await makeApp(t)
  await run(t, 'cors', { app })
  app.get('/', (request, reply) => reply.sse(['hello']))
  const url = await listen(app)
  const origin = 'https://app.example'
  const stream = await get(t, url, { headers: { origin } })
  t.match(stream.headers, { 'access-control-allow-origin': origin, 'access-control-allow-credentials': 'true' })
  const preflight = await get(t, url, {
    method: 'OPTIONS',
    headers: { origin, 'access-control-request-method': 'GET', 'access-control-request-headers': 'last-event-id' }
  })
  t.equal(preflight.status, 204)
  t.match(preflight.headers['access-control-allow-headers'], 'last-event-id')
})

t.test('clientKey counts by user where there is one', async t => {
  const { app } = await run(t, 'client-key', { Fastify, streaming }, ['app'])
  closeAfter(t, app)
  app.get('/', (request: unknown, reply: any) => reply.sse(() => {}))
  const url = await listen(app)
  const as = async (headers: Record<string, string>) => (await get(t, url, { headers })).status
  for (let n = 0; n < 4; n++) t.equal(await as({ 'x-user': 'ann' }), 200)
  t.equal(await as({ 'x-user': 'ann' }), 429)
  t.equal(await as({ 'x-user': 'bob' }), 200)
  for (let n = 0; n < 4; n++) t.equal(await as({ 'x-forwarded-for': '203.0.113.9' }), 200)
  t.equal(await as({ 'x-forwarded-for': '203.0.113.9' }), 429)
  t.equal(await as({ 'x-forwarded-for': '203.0.113.10' }), 200)
})

t.test('a stream ends when its user is revoked or the token expires, and EventSource stops on the 401', async t => {
  const outcomes: any[] = []
  const app = await makeApp(t, { retry: 1, onClose: (outcome: unknown) => { outcomes.push(outcome) } })
  const users = new Set(['ann'])
  let expiresAt = Date.now() + 3_600_000
  const authenticate = async (request: any) => {
    if (!users.has('ann')) throw Object.assign(new Error('who?'), { statusCode: 401 })
    request.user = { id: 'ann', expiresAt }
  }
  await run(t, 'revoke', { app, authenticate, messages: async function * () { yield 'one'; await new Promise(() => {}) } })
  const url = await listen(app)
  const source = new (browserOf(t, url))('/inbox')
  await once(source as any, 'message')
  users.delete('ann')
  await request(`${url}/users/ann/revoke`, { method: 'POST' })
  while (source.readyState !== 2) await setImmediate()
  t.match(outcomes, [{ reason: 'aborted', error: { message: 'revoked' } }])

  users.add('ann')
  expiresAt = Date.now() + 50
  const stream = await get(t, `${url}/inbox`)
  t.strictSame(values(await stream.rest()), ['message: one'])
  t.match(outcomes[1], { reason: 'aborted', error: { name: 'TimeoutError' } })
})

t.test('SIGTERM ends streams with a retry, and then the process', async t => {
  const file = write(t, 'sigterm.mjs', snippet('sigterm'))
  const port = await freePort()
  const child = spawn(process.execPath, [file], { env: { ...plainEnvironment(), PORT: String(port) }, stdio: 'ignore' })
  const exited = once(child, 'exit')
  await start(t, child, port)
  const client = open(t, port, { path: '/events' })
  await client.until('data: hello\n\n')
  child.kill('SIGTERM')
  t.match(await client.end(), /retry: [1-5]\d{3}\n\r\n0\r\n\r\n$/)
  t.strictSame(await exited, [0, null])
})

t.test('forceCloseConnections closes a connection that has never sent a request', async t => {
  const app = await makeApp(t, {}, { forceCloseConnections: true })
  app.get('/', (request, reply) => reply.sse(stream => { stream.send('hello') }))
  const { port } = new URL(await listen(app))
  const silent = connect(t, Number(port))
  await once(silent.socket, 'connect')
  const client = open(t, Number(port))
  await client.until('data: hello')
  await app.close()
  t.match(await client.end(), /retry: \d+\n\r\n0\r\n\r\n$/)
  await silent.end()
})

t.test('inject() gives a finite stream when it is whole, and any with payloadAsStream', async t => {
  const app = await makeApp(t)
  app.get('/finite', (request, reply) => reply.sse(['a', 'b']))
  app.get('/endless', (request, reply) => reply.sse(stream => { stream.send('a') }))
  t.equal((await app.inject('/finite')).body, 'data: a\n\ndata: b\n\n')
  const response = await app.inject({ url: '/endless', payloadAsStream: true })
  const body = response.stream()
  t.equal(String((await once(body, 'data'))[0]), 'data: a\n\n')
  body.destroy()
})

t.test('maxDuration ends a stream properly before its time', async t => {
  const app = await makeApp(t)
  await run(t, 'max-duration', { app, feed: async function * () { yield 'news'; await new Promise(() => {}) } })
  const { port } = new URL(await listen(app))
  const clock = fakeClock(t)
  const client = open(t, Number(port), { path: '/feed' })
  await client.until('data: news\n\n')
  // In steps: heartbeats have to reach the socket in between.
  for (let n = 0; n < 4; n++) {
    clock.tick(9_999)
    await turn(5)
  }
  t.notOk(client.socket.closed)
  clock.tick(10_004)
  t.match(await client.end(), /retry: 1000\n[^]*0\r\n\r\n$/)
})

t.test('EventSource stops for good or comes back as the table says', async t => {
  const app = await makeApp(t, { retry: 1 })
  const visits = new Map<string, number>()
  app.addHook('onRequest', async ({ url }) => { visits.set(url, (visits.get(url) ?? 0) + 1) })
  app.get('/no-content', (request, reply) => reply.code(204).sse(['never']))
  app.get('/error', (request, reply) => reply.sse(async function * () { throw new Error('no') }))
  app.get('/type', async () => ({ not: 'a stream' }))
  app.get('/finite', (request, reply) => reply.sse([{ id: 1, data: request.headers['last-event-id'] ?? 'first' }]))
  app.get('/broken', (request, reply) => reply.sse(stream => { stream.send('hello').then(() => setTimeout(() => reply.raw.destroy(), 1)) }))
  const url = await listen(app)

  for (const path of ['/no-content', '/error', '/type']) {
    const source = new (browserOf(t, url))(path)
    while (source.readyState !== 2) await setImmediate()
    t.equal(visits.get(path), 1, path)
  }
  const data: string[] = []
  const finite = new (browserOf(t, url))('/finite')
  await new Promise<void>(resolve => { finite.onmessage = event => { if (data.push(event.data) === 2) resolve() } })
  finite.close()
  t.strictSame(data, ['first', '1'])
  const broken = new (browserOf(t, url))('/broken')
  let messages = 0
  await new Promise<void>(resolve => { broken.onmessage = () => { if (++messages === 2) resolve() } })
  broken.close()
})

// Fine print

t.test('HEAD counts as a completed stream, and not against the limits', async t => {
  const app = await makeApp(t, { maxStreams: 1 })
  let released = 0
  app.get('/', (request, reply) => reply.sse({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return: async () => { released++ } }) } as never))
  const url = await listen(app)
  await get(t, url)
  const head = await get(t, url, { method: 'HEAD' })
  t.equal(head.status, 200)
  t.equal(head.headers['content-type'], 'text/event-stream')
  t.equal(released, 1)
  t.match(app.streaming.stats(), { open: 1, opened: 2, closed: { completed: 1 } })
})

t.test('close() on a stream that must not reconnect sends the end event', async t => {
  const app = await makeApp(t)
  app.get('/', async (request, reply) => { (await reply.sse({ reconnect: false })).close() })
  t.strictSame(await (await get(t, await listen(app))).rest(), [{ id: 'fastify-streaming:end', event: 'end', data: '{}' }])
})

t.test('a writer that ends before its head is 503, an event stream its head and the end', async t => {
  const app = await makeApp(t)
  app.get('/writer', (request, reply) => reply.streamWriter(async () => {}, { signal: AbortSignal.abort() }))
  app.get('/sse', (request, reply) => reply.sse(['never'], { signal: AbortSignal.abort() }))
  const url = await listen(app)
  const writer = await get(t, `${url}/writer`)
  t.equal(writer.status, 503)
  t.equal(JSON.parse(await writer.text()).code, 'FST_STREAM_UNAVAILABLE')
  const sse = await get(t, `${url}/sse`)
  t.equal(sse.status, 200)
  t.equal(await sse.text(), '')
})

t.test('half a character and bytes that are no UTF-8 are refused', async t => {
  const app = await makeApp(t)
  app.get('/sse', (request, reply) => reply.sse(['\ud83d']))
  app.get('/bytes', (request, reply) => reply.sse([{ data: Buffer.of(0xff) }]))
  app.get('/writer', (request, reply) => reply.streamWriter(['\ud83d']))
  const url = await listen(app)
  for (const [path, code] of [['/sse', 'FST_STREAM_INVALID_FIELD'], ['/bytes', 'FST_STREAM_INVALID_EVENT'], ['/writer', 'FST_STREAM_INVALID_CHUNK']]) {
    t.match(JSON.parse(await (await get(t, `${url}${path}`)).text()), { statusCode: 500, code })
  }
})

t.test('a stream that a limit refuses resolves with failed and is in no statistics', async t => {
  const app = await makeApp(t, { maxStreams: 1 })
  const outcomes: any[] = []
  app.get('/', async (request, reply) => { outcomes.push(await reply.sse(() => {})) })
  const url = await listen(app)
  await get(t, url)
  await get(t, url)
  while (outcomes.length === 0) await setImmediate()
  t.match(outcomes, [{ reason: 'failed', error: { code: 'FST_STREAM_LIMIT' } }])
  t.match(app.streaming.stats(), { open: 1, opened: 1 })
})

t.test('the plugin twice, or beside another that needs reply.sse, is refused, and goes in a context of its own', async t => {
  for (const other of [streaming, require('@fastify/sse'), require('fastify-sse-v2').default]) {
    const beside = Fastify()
    await beside.register(other as never)
    await t.rejects(async () => { await beside.register(streaming); await beside.ready() }, { code: 'FST_STREAM_NAME_TAKEN' })
    const apart = Fastify()
    apart.register(async app => { await app.register(other as never) })
    apart.register(async app => { await app.register(streaming) })
    await apart.ready()
    await apart.close()
  }
})

// Channels

t.test('an event reaches everybody who reads the channel, and who comes back gets what was missed', async t => {
  const app = await makeApp(t)
  await run(t, 'channel', { app })
  const url = await listen(app)
  const first = await get(t, `${url}/news`)
  t.match(await first.next(), { event: 'position', data: '{}' })
  const post = async (text: string) => {
    const { statusCode, body } = await request(`${url}/news`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ text }) })
    t.equal(statusCode, 201)
    return (await body.json() as { id: string }).id
  }
  const id = await post('one')
  t.strictSame(await first.next(), { id, event: 'headline', data: '{"text":"one"}' })
  await post('two')
  const back = await get(t, `${url}/news`, { headers: { 'last-event-id': id } })
  t.match(await back.next(), { event: 'position', id })
  t.match(await back.next(), { event: 'headline', data: '{"text":"two"}' })
  const shown: unknown[] = []
  let reloads = 0
  const page = new EventSource(`${url}/news?lastEventId=nonsense`)
  t.teardown(() => page.close())
  const code = snippet('channel-browser').replace("new EventSource('/news')", 'page')
  runInThisContext(`(page, show, location) => { ${code} }`)(page, (data: unknown) => shown.push(data), { reload () { reloads++ } })
  while (shown.length < 2) await setImmediate()
  t.strictSame(shown, [{ text: 'one' }, { text: 'two' }])
  t.equal(reloads, 1)
})

t.test('the reasons of a gap are those of the table', async t => {
  const docs = (await readFile(path.join(root, 'lib/channel/frame.ts'), 'utf8')).matchAll(/^ \* - `(\w+)`: (.*)$/gm)
  t.strictSame(table('Channels: one event to many').map(([name]) => name), [...docs].map(([, name]) => name))
})

t.test('history, replay, filter, lag, keys and several channels are given as the README has them', async t => {
  const app = await makeApp(t)
  const news = app.streaming.channel('news')
  const prices = app.streaming.channel('prices')
  const { orders } = await run(t, 'channel-history', { app }, ['orders'])
  await run(t, 'channel-options', { app, news, orders, prices })
  for (let i = 0; i < 12; i++) await orders.publish({ data: { customer: i % 2 === 0 ? 'a' : 'b', i } })
  const url = await listen(app)
  const mine = await get(t, `${url}/orders?customer=a`)
  t.match(await mine.next(), { event: 'position' })
  for (const i of [2, 4, 6, 8, 10]) t.match(await mine.next(), { data: `{"customer":"a","i":${i}}` })
  const all = await get(t, `${url}/all`)
  t.match(await all.next(), { event: 'position', id: /^[^,]+,[^,]+$/ })
  await news.publish('hello')
  t.match(await all.next(), { data: 'hello' })
  const price = await get(t, `${url}/prices`)
  t.match(await price.next(), { event: 'position' })
  await run(t, 'channel-key', { prices })
  t.match(await price.next(), { data: '{"symbol":"ACME","price":12.5}' })
})

// Typed events

const compilerOptions: ts.CompilerOptions = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  types: ['node'],
  typeRoots: [path.join(root, 'node_modules/@types')]
}

// One for all snippets: what they import is parsed once.
const compilerHost = ts.createCompilerHost(compilerOptions)
const readSource = compilerHost.getSourceFile
const sources = new Map<string, ts.SourceFile | undefined>()
compilerHost.getSourceFile = (file, ...rest) => {
  if (!sources.has(file)) sources.set(file, readSource(file, ...rest))
  return sources.get(file)
}

/** What the compiler says of a snippet. */
function compilerErrors (t: Test, name: string, change = (code: string) => code): string[] {
  const file = write(t, `${name}.mts`, change(snippet(name)))
  const program = ts.createProgram([file], compilerOptions, compilerHost)
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'))
}

t.test('the example of typed events compiles, runs, and would not with another name or other data', async t => {
  t.strictSame(compilerErrors(t, 'typed-events'), [])
  const { app } = await run(t, 'typed-events', {}, ['app'])
  closeAfter(t, app)
  t.strictSame(values(await (await get(t, `${await listen(app)}/answer`)).rest()), ['token: {"text":"because"}', 'done: {"tokens":1}'])
  const wrong = (code: string) => code.replace("event: 'token', data", "event: 'tokens', data").replace('tokens: 1 }', "tokens: '1' }")
  t.equal(compilerErrors(t, 'typed-events', wrong).length, 1)
})

t.test('the example of typed events with Zod compiles, and its channel reaches its route', async t => {
  t.strictSame(compilerErrors(t, 'typed-events-zod'), [])
  const { app } = await run(t, 'typed-events-zod', {}, ['app'])
  closeAfter(t, app)
  const url = `${await listen(app)}/prices`
  const stream = await get(t, url)
  t.match(await stream.next(), { event: 'position' })
  await request(url, { method: 'POST' })
  t.match(await stream.next(), { event: 'price', data: '{"symbol":"ACME","eur":12.5}' })
})

t.test('the example of OpenAPI describes its route', async t => {
  const app = Fastify()
  closeAfter(t, app)
  await run(t, 'openapi', { app })
  const { body } = await request(`${await listen(app)}/openapi.json`)
  const { openapi, paths } = await body.json() as any
  t.equal(openapi, '3.2.0')
  const { schema, itemSchema } = paths['/news'].get.responses[200].content['text/event-stream']
  t.equal(schema.type, 'array')
  t.match(itemSchema.oneOf[0].properties, { event: { enum: ['headline'] }, data: { type: 'string', contentMediaType: 'application/json', contentSchema: { type: 'object' } } })
  t.strictSame(itemSchema.oneOf.slice(1).map(({ properties }: any) => properties.event.enum[0]), ['position', 'gap', 'error', 'end'])
})

t.test('an iterator gives what is published from the call on', async t => {
  const app = await makeApp(t)
  const news = app.streaming.channel('news')
  const controller = new AbortController()
  const lines: unknown[][] = []
  const done = run(t, 'channel-subscribe', { news, signal: controller.signal, console: { log: (...line: unknown[]) => { lines.push(line) } } })
  while (news.size === 0) await setImmediate()
  await news.publish({ event: 'headline', data: { a: 1 } })
  while (lines.length === 0) await setImmediate()
  controller.abort()
  await done
  t.strictSame(lines, [['headline', { a: 1 }]])
  t.equal(news.size, 0)
})

t.test('channels over Redis are as the README has them, with either client, and from a worker', { skip: !hasRedis && 'there is no redis-server' }, async t => {
  const server = new RedisServer()
  t.teardown(() => server.remove())
  const url = await server.startOnPort()
  const env = { env: { REDIS_URL: url } }
  const app = Fastify()
  await run(t, 'redis', { app, streaming, process: env })
  await app.register(async app => { await run(t, 'channel', { app }) })
  const address = await listen(app)
  const page = await get(t, `${address}/news`)
  t.match(await page.next(), { event: 'position' })
  const { broker, client } = await run(t, 'redis-node', { process: env }, ['broker', 'client'])
  await broker.ready()
  await run(t, 'worker', { broker })
  t.match(await page.next(), { event: 'headline', data: '{"title":"From a worker"}' })
  await broker.close()
  client.destroy()
  await app.close()
})

t.test('a user of Redis needs no more permissions than the README has', { skip: !hasRedis && 'there is no redis-server' }, async t => {
  const server = new RedisServer()
  t.teardown(() => server.remove())
  await server.start()
  const { Redis } = await import('ioredis')
  const { redisBroker } = await import('fastify-streaming/redis' as string) as typeof import('../lib/brokers/redis.ts')
  const admin = new Redis({ path: server.socket })
  t.teardown(() => admin.disconnect())
  const [, rules = '', others = ''] = /^Permissions of an ACL user: `(.*?)`.*\(`(.*)`\)/m.exec(readme) ?? []
  await admin.call('ACL', 'SETUSER', 'app', 'on', '>secret', ...rules.split(' '), others)
  const client = new Redis({ path: server.socket, username: 'app', password: 'secret' })
  t.teardown(() => client.disconnect())
  const broker = redisBroker({ client })
  t.teardown(() => broker.close())
  await broker.ready()
  const channels = createChannels({ broker })
  const iterator = channels.channel('a', { history: { events: 2 } }).subscribe()
  const { value: { id } } = await iterator.next()
  for (const data of ['1', '2', '3']) await channels.channel('a').publish(data, { idempotencyKey: data })
  t.match(await iterator.next(), { value: { data: '1' } })
  t.match(await broker.read('a', id.split('.')[0] as string, 10), { contiguous: false, events: [{}, {}] })
  t.match(await broker.read('a', 1, 10), { contiguous: true, events: [{}] })
  await channels.close()
})

// Tables

t.test('the table of options has every option, where it may stand, and its default', async t => {
  const { sse, writer, limits } = resolvePluginOptions({})
  const pluginNames = unknownOption(() => resolvePluginOptions({ nonsense: 1 }))
  const shutdownNames = unknownOption(() => resolvePluginOptions({ shutdown: { nonsense: 1 } }))
  const expected = new Map<string, string[]>()
  const allow = (names: string[], where: string) => {
    for (const name of names) expected.set(name, [...expected.get(name) ?? [], where])
  }
  allow([...pluginNames.filter(name => name !== 'shutdown'), ...shutdownNames], 'plugin')
  allow(Object.keys(eventStreamCallRules), 'sse')
  allow(Object.keys(writerCallRules), 'writer')
  const all = table('Options')
  const rows = all.slice(0, all.findIndex(([name]) => name === 'Channel option'))
  t.strictSame(Object.fromEntries(rows.map(([name, where]) => [name, where.split(', ')])), Object.fromEntries(expected))

  const defaults: Record<string, unknown> = { ...sse, ...limits, lag: defaultLag, 'shutdown.retry': limits.shutdown.retry, 'shutdown.grace': limits.shutdown.grace }
  for (const [name, , text] of rows) {
    const [own, ofWriters] = text.split(', writer ').map(cell => cell === '–' ? undefined : evaluated(cell))
    if (name === 'clientKey') {
      t.equal((own as Function)({ ip: '203.0.113.9' }), limits.clientKey({ ip: '203.0.113.9' } as never))
      continue
    }
    if (name === 'broker') {
      t.match(own, { publish: Function, tail: Function })
      continue
    }
    t.strictSame(own, defaults[name], name)
    if (expected.get(name)?.includes('writer')) t.strictSame(ofWriters ?? own, (writer as any)[name], `${name} of writers`)
  }
})

t.test('the table of options of channels has every one of them, and its default', async t => {
  const all = table('Options')
  const rows = all.slice(all.findIndex(([name]) => name === 'Channel option') + 2)
  const app = await makeApp(t)
  const channel = app.streaming.channel('a') as any
  const names = (options: string) => rows.filter(([, of]) => of === `\`${options}\``).flatMap(([name]) => name.split('`, `'))
  const ofChannels = [
    ...unknownOption(() => app.streaming.channel('b', { nonsense: 1 } as never)).filter(name => name !== 'history'),
    ...unknownOption(() => app.streaming.channel('b', { history: { nonsense: 1 } as never }))
  ]
  t.strictSame(names('channel(name)').sort(), ofChannels.sort())
  t.strictSame(names('subscribe()').sort(), unknownOption(() => channel.subscribe({ nonsense: 1 })).sort())
  t.strictSame(names('close()').sort(), unknownOption(() => channel.close({ nonsense: 1 })).sort())
  await channel.publish('x', { nonsense: 1 }).catch((error: Error) => {
    t.strictSame(names('publish(event)').sort(), unknownOption(() => { throw error }).sort())
  })
  for (const [name, , text] of rows.filter(([name]) => name.startsWith('history.'))) {
    t.equal(evaluated(text), defaultHistory[name.slice(8) as keyof typeof defaultHistory])
  }
})

t.test('the table of options of Redis has every one of them, and its default', async t => {
  const client = { call () {}, duplicate () {}, subscribe () {}, on () {} }
  const { client: _client, ...defaults } = resolveRedisOptions({ client })
  const rows = table('Several processes: Redis or Valkey')
  const own = rows.slice(rows.findIndex(([name]) => name === 'Redis option') + 2)
  t.strictSame(own.map(([name]) => name).sort(), unknownOption(() => resolveRedisOptions({ client, nonsense: 1 })).sort())
  t.strictSame(Object.fromEntries(own.slice(1).map(([name, text]) => [name, text === '–' ? undefined : evaluated(text)])), defaults)
})

t.test('the table of errors has every code, its status and its meaning', async t => {
  const source = await readFile(path.join(root, 'lib/errors.ts'), 'utf8')
  const expected = Object.entries(errors).filter(([name]) => name.startsWith('FST_')).map(([name, MadeError]) => {
    const { code, statusCode } = new (MadeError as any)('', '', '')
    t.equal(code, name)
    const [, meaning] = source.match(new RegExp(`/\\*\\* (.*) \\*/\nexport const ${name} `)) ?? []
    return [name, String(statusCode), meaning]
  })
  t.strictSame(table('Errors').sort(), expected.sort())
})

t.test('the table of outcomes and the keys of statistics are those of the code', async t => {
  t.strictSame(table('How a stream ended').map(([name]) => name), outcomeReasons)
  const docs = (await readFile(path.join(root, 'lib/stream/lifecycle.ts'), 'utf8')).matchAll(/^ {3}\* - `(\w+)`: (.*)$/gm)
  t.strictSame(table('How a stream ended').sort(), [...docs].map(([, name, meaning]) => [name, meaning]).sort())
  const app = await makeApp(t)
  t.match(readme, `\`{ ${Object.keys(app.streaming.stats()).join(', ').replace('closed', 'closed: { [reason]: n }')} }\``)
})

t.test('the exported types are those that the README names', async t => {
  const types = []
  for (const entry of ['index', 'redis']) {
    const declarations = await readFile(path.join(root, `dist/${entry}.d.ts`), 'utf8')
    for (const [, names] of declarations.matchAll(/^export (?:type )?\{ (.*) \}/gm)) types.push(...names.split(', ').map(name => name.replace(/^type |.* as /g, '')))
  }
  const values = ['createChannels', 'default', 'memoryBroker', 'redisBroker', 'transformObject']
  const named = [.../^Exported types: (.*)$/m.exec(readme)?.[1].matchAll(/`(\w+)`/g) ?? []].map(([, name]) => name)
  t.strictSame(named.sort(), types.filter(name => !values.includes(name)).sort())
})

t.test('the peers are compared in the versions that are installed', async t => {
  const [head] = readme.split('\n').filter(line => line.startsWith('| | fastify-streaming '))
  for (const name of ['@fastify/sse', 'fastify-sse-v2', 'better-sse']) {
    const { version } = JSON.parse(await readFile(path.join(root, 'node_modules', name, 'package.json'), 'utf8'))
    t.match(head, `| ${name} ${version} |`)
  }
})

t.test('the tables and the plot of speed show what was measured and saved', async t => {
  const { redisTableOf, tableOf } = await import('../bench/report.js' as string)
  const { plotOf } = await import('../bench/load/plot.js' as string)
  const results = JSON.parse(await readFile(path.join(root, 'bench/results.json'), 'utf8'))
  const [, shown] = /<!-- bench -->\n\n([^]*?)\n\n<!-- \/bench -->/.exec(readme) ?? []
  t.equal(shown, tableOf(results))
  const redisResults = JSON.parse(await readFile(path.join(root, 'bench/redis-results.json'), 'utf8'))
  const [, shownOfRedis] = /<!-- bench:redis -->\n\n([^]*?)\n\n<!-- \/bench:redis -->/.exec(readme) ?? []
  t.equal(shownOfRedis, redisTableOf(redisResults))
  t.equal((await readFile(path.join(root, 'bench/scaling.svg'), 'utf8')).replaceAll('\r\n', '\n'), plotOf(results.scaling))
})

t.test('the links of the README lead somewhere', async t => {
  const slugs = [...readme.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => `#${heading.toLowerCase().replaceAll(/[^\w\- ]/g, '').replaceAll(' ', '-')}`)
  for (const [, target] of readme.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
    if (target.startsWith('#')) t.ok(slugs.includes(target), target)
    else t.ok(existsSync(path.join(root, target)) || existsSync(path.join(root, `${target}.md`)), target)
  }
})

t.test('every snippet of the README was run here', async t => {
  t.strictSame([...asked].sort(), [...snippets.keys()].sort())
})

function evaluated (cell: string): unknown {
  return runInThisContext(`memoryBroker => (${cell.replaceAll('`', '')})`)(memoryBroker)
}

// Promise.withResolvers() is there from Node 22 on.
function withResolvers<T> () {
  let resolve!: (value: T) => void
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}

/** What an option that does not exist is told to be one of. */
function unknownOption (resolve: () => unknown): string[] {
  try {
    resolve()
  } catch (error) {
    return /one of (.*) \(/.exec((error as Error).message)?.[1].split(', ') ?? []
  }
  return []
}

/** Without what tap adds to it for its own processes. */
function plainEnvironment (): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|NODE_V8_COVERAGE|NODE_TEST_CONTEXT|TAP|_TAPJS)/.test(name)))
}

async function freePort (): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Resolves when the port takes connections; rejects when the process has ended instead. */
async function start (t: Test, child: ChildProcess, port: number): Promise<void> {
  t.teardown(() => { child.kill() })
  child.on('error', () => {})
  for (;;) {
    const socket = net.connect(port, '127.0.0.1')
    const isThere = await new Promise<boolean>(resolve => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
    })
    socket.destroy()
    if (isThere) return
    if (child.exitCode !== null || child.pid === undefined) throw new Error(`The process has ended with ${child.exitCode}`)
    await setImmediate()
  }
}
