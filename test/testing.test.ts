import './fixtures/guard.ts'
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { inspect, promisify } from 'node:util'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import { eventually } from './fixtures/clock.ts'
import type { serve } from './fixtures/server.ts'
import streaming, { type EventStream, type StreamOutcome } from '../lib/index.ts'
import { openStream } from '../lib/testing.ts'

type Test = Parameters<typeof serve>[0]

/** An app that does not listen. */
async function quietApp (t: Test, setup: (app: FastifyInstance) => void): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(streaming, { heartbeat: 0 })
  setup(app)
  t.teardown(() => app.close())
  return app
}

t.test('openStream() opens a stream of an app that does not listen, when its head is there', async t => {
  let isDone = false
  const app = await quietApp(t, app => {
    app.get('/', (request, reply) => reply.code(201).header('x-mine', '1').sse(async function * () {
      yield 'one'
      await new Promise(() => {})
      isDone = true
    }()))
  })
  const stream = await openStream(app, { url: '/' })
  t.equal(app.server.listening, false)
  t.equal(stream.statusCode, 201)
  t.match(stream.headers, { 'content-type': 'text/event-stream', 'x-mine': '1' })
  t.match(await stream.next(), { data: 'one' })
  t.equal(isDone, false)
  t.equal(app.streaming.open, 1)
})

t.test('sends method, headers and payload', async t => {
  const app = await quietApp(t, app => {
    app.all('/echo', (request, reply) => reply.sse([{ data: { method: request.method, query: request.query, body: request.body, id: request.headers['last-event-id'] } }]))
  })
  const get = await openStream(app, { url: '/echo?a=b', headers: { 'Last-Event-ID': '7' } })
  t.same(JSON.parse((await get.next())?.data as string), { method: 'GET', query: { a: 'b' }, id: '7' })
  const post = await openStream(app, { method: 'POST', url: '/echo', payload: { question: 'why?' } })
  t.same(JSON.parse((await post.next())?.data as string), { method: 'POST', query: {}, body: { question: 'why?' } })
  const text = await openStream(app, { method: 'PUT', url: '/echo', headers: { 'content-type': 'text/plain' }, payload: 'plain' })
  t.match(JSON.parse((await text.next())?.data as string), { method: 'PUT', body: 'plain' })
})

t.test('opens a reply of any kind: an error has its status, its body, and no stream', async t => {
  const app = await quietApp(t, app => {
    app.get('/json', async () => ({ plain: true }))
    app.get('/wrong', (request, reply) => reply.sse(42 as never))
    app.get('/thrown', async (request, reply) => { throw Object.assign(new Error('no'), { statusCode: 403 }) })
  })
  const json = await openStream(app, { url: '/json' })
  t.equal(json.statusCode, 200)
  t.equal(await json.text(), '{"plain":true}')
  await t.rejects(json.outcome, { message: 'The reply to GET /json was no stream: neither reply.sse() nor reply.streamWriter() was called' })
  const thrown = await openStream(app, { url: '/thrown' })
  t.equal(thrown.statusCode, 403)
  await t.rejects(thrown.outcome, { message: /was no stream/ })
  const missing = await openStream(app, { method: 'POST', url: '/nowhere' })
  t.equal(missing.statusCode, 404)
  await t.rejects(missing.outcome, { message: /^The reply to POST \/nowhere was no stream/ })
})

t.test('outcome that nobody waits for harms nobody: printing the stream is enough to ask for it', async t => {
  const app = await quietApp(t, app => { app.get('/', async () => 'plain') })
  const stream = await openStream(app, { url: '/' })
  t.ok(inspect(stream, { getters: true }))
  t.equal(await stream.text(), 'plain')
})

t.test('events', async t => {
  const three = ['one', { event: 'two', id: 2, data: { two: 2 } }, { data: 'three\nlines\n' }]
  const withThree = (t: Test) => quietApp(t, app => {
    app.get('/', (request, reply) => reply.sse(three))
    app.get('/cut', (request, reply) => reply.streamWriter(async function * () {
      yield 'data: one\n\ndata: two\n\ndata: thr'
      throw new Error('late')
    }))
  })

  t.test('are an async iterable of what a client would be given, and end with the body', async t => {
    const stream = await openStream(await withThree(t), { url: '/' })
    const seen: unknown[] = []
    for await (const event of stream.events) seen.push(event)
    t.same(seen, [
      { id: undefined, event: undefined, data: 'one' },
      { id: '2', event: 'two', data: '{"two":2}' },
      { id: undefined, event: undefined, data: 'three\nlines\n' }
    ])
  })

  t.test('go on where a loop over them was left', async t => {
    const stream = await openStream(await withThree(t), { url: '/' })
    for await (const { event } of stream.events) {
      if (event === 'two') break
    }
    const rest: string[] = []
    for await (const { data } of stream.events) rest.push(data)
    t.same(rest, ['three\nlines\n'])
  })

  t.test('come one by one from next(), and undefined when the body has ended', async t => {
    const stream = await openStream(await withThree(t), { url: '/' })
    t.match(await stream.next(), { data: 'one' })
    t.match(await stream.next(), { event: 'two' })
    t.match(await stream.next(), { data: 'three\nlines\n' })
    t.equal(await stream.next(), undefined)
    t.equal(await stream.next(), undefined)
  })

  t.test('of calls of next() that do not wait for each other come in order, each once', async t => {
    const stream = await openStream(await withThree(t), { url: '/' })
    const seen = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()])
    t.same(seen.map(event => event?.data), ['one', '{"two":2}', 'three\nlines\n', undefined])
  })

  t.test('come in numbers from take(n), which waits for the last of them', async t => {
    let stream!: EventStream
    const app = await quietApp(t, app => {
      app.get('/', async (request, reply) => { stream = await reply.sse() })
    })
    const client = await openStream(app, { url: '/' })
    t.same(await client.take(0), [])
    let isTaken = false
    const taken = client.take(2).finally(() => { isTaken = true })
    await eventually(() => stream !== undefined)
    await stream.send('one')
    await new Promise(resolve => setImmediate(resolve))
    t.equal(isTaken, false)
    await stream.send('two')
    await stream.send('three')
    t.same((await taken).map(({ data }) => data), ['one', 'two'])
    t.match(await client.next(), { data: 'three' })
  })

  t.test('of take(n) are missed loudly when the body ends before', async t => {
    const stream = await openStream(await withThree(t), { url: '/' })
    await t.rejects(stream.take(4), { message: 'The body ended after 3 of 4 events' })
  })

  t.test('before a cut come, and then every reader rejects, again and again', async t => {
    const app = await withThree(t)
    const stream = await openStream(app, { url: '/cut' })
    t.same((await stream.take(2)).map(({ data }) => data), ['one', 'two'])
    await t.rejects(stream.next())
    await t.rejects(stream.next())
    await t.rejects(stream.take(1))
    await t.rejects(stream.text(), 'and never gives half a body')
    await t.rejects(async () => { for await (const event of stream.events) t.fail('an unfinished block is no event', event) })
    t.match(await stream.outcome, { reason: 'failed', error: { message: 'late' } })
  })

  t.test('are parsed by the letter of the format, not by what this package writes', async t => {
    const app = await quietApp(t, app => {
      app.get('/', (request, reply) => reply.type('text/event-stream').streamWriter([
        '\uFEFFdata:no space\r\ndata: sec', 'ond\r\r: comment\nevent: kept\nid: 1\nunknown: x\ndata\n\n',
        'id: 2\n\n', 'retry: 5\n\ndata: \u00e4\n\ndata: unfinished\n'
      ]))
    })
    const stream = await openStream(app, { url: '/' })
    const seen: unknown[] = []
    for await (const { id, event, data } of stream.events) seen.push([id, event, data])
    t.same(seen, [[undefined, undefined, 'no space\nsecond'], ['1', 'kept', ''], [undefined, undefined, '\u00e4']])
  })
})

t.test('text()', async t => {
  const app = await quietApp(t, app => {
    app.get('/', (request, reply) => reply.sse(['one', { comment: 'two' }]))
    app.get('/split', (request, reply) => reply.streamWriter(async function * () {
      yield Buffer.from('gr\u00fc').subarray(0, 3)
      await new Promise(resolve => setImmediate(resolve))
      yield Buffer.from('gr\u00fc').subarray(3)
      yield '\u00dfe'
    }))
    app.get('/big', (request, reply) => reply.streamWriter(['x'.repeat(1 << 20), 'y'.repeat(1 << 20)]))
  })

  t.test('is the whole body', async t => {
    t.equal(await (await openStream(app, { url: '/' })).text(), 'data: one\n\n: two\n')
  })

  t.test('is the whole body also after events were taken, which it leaves to be taken', async t => {
    const stream = await openStream(app, { url: '/' })
    const body = await stream.text()
    t.equal(body, 'data: one\n\n: two\n')
    t.match(await stream.next(), { data: 'one' })
    t.equal(await stream.next(), undefined)
    t.equal(await stream.text(), body)
  })

  t.test('decodes characters that chunks cut in half', async t => {
    t.equal(await (await openStream(app, { url: '/split' })).text(), 'gr\u00fc\u00dfe')
  })

  t.test('shows a character that the body ends inside of', async t => {
    const app = await quietApp(t, app => { app.get('/', (request, reply) => reply.streamWriter([Buffer.from('gr\u00fc').subarray(0, 3)])) })
    t.equal(await (await openStream(app, { url: '/' })).text(), 'gr\uFFFD')
  })

  t.test('may be waited for together with events', async t => {
    let stream!: EventStream
    const app = await quietApp(t, app => { app.get('/', async (request, reply) => { stream = await reply.sse() }) })
    const client = await openStream(app, { url: '/' })
    await eventually(() => stream !== undefined)
    const [next, text, later] = [client.next(), client.text(), client.take(2)]
    await stream.send('one')
    t.match(await next, { data: 'one' })
    await stream.send('two')
    await stream.send('three')
    t.match(await later, [{ data: 'two' }, { data: 'three' }])
    stream.close()
    t.equal(await text, 'data: one\n\ndata: two\n\ndata: three\n\n')
  })

  t.test('is a large body too', async t => {
    const stream = await openStream(app, { url: '/big' })
    t.equal((await stream.text()).length, 2 << 20)
    t.match(await stream.outcome, { reason: 'completed', bytes: 2 << 20 })
  })
})

t.test('disconnect()', async t => {
  interface Visit { signal: AbortSignal, returned: number, outcome: StreamOutcome | undefined }

  async function visited (t: Test) {
    const visit: Visit = { signal: undefined as never, returned: 0, outcome: undefined }
    const app = await quietApp(t, app => {
      app.get('/', (request, reply) => reply.sse((stream, signal) => {
        visit.signal = signal
        let count = 0
        const source: AsyncIterableIterator<string> = {
          [Symbol.asyncIterator]: () => source,
          next: () => count++ < 2 ? Promise.resolve({ done: false, value: String(count) }) : new Promise(() => {}),
          async return () { visit.returned++; return { done: true, value: undefined } }
        }
        return source
      }, { onClose: outcome => { visit.outcome = outcome } }))
      app.get('/writer', (request, reply) => reply.streamWriter(async writer => {
        visit.signal = writer.signal
        await writer.write('begun\n')
        await writer.closed
      }))
    })
    return { app, visit }
  }

  t.test('is a client that left, to the server: signal, source, outcome and counts', async t => {
    const { app, visit } = await visited(t)
    const stream = await openStream(app, { url: '/' })
    await stream.take(2)
    t.equal(visit.signal.aborted, false)
    stream.disconnect()
    const outcome = await stream.outcome
    t.match(outcome, { reason: 'disconnected', events: 2, bytes: 18 })
    t.equal(visit.outcome, outcome)
    t.match(visit.signal.reason, { name: 'AbortError', reason: 'disconnected' })
    t.equal(visit.returned, 1)
    t.match(app.streaming.stats(), { open: 0, closed: { disconnected: 1 } })
  })

  t.test('is one to a writer as well', async t => {
    const { app, visit } = await visited(t)
    const stream = await openStream(app, { url: '/writer' })
    stream.disconnect()
    t.match(await stream.outcome, { reason: 'disconnected' })
    t.equal(visit.signal.aborted, true)
  })

  t.test('ends what is being read, with what had come', async t => {
    const { app } = await visited(t)
    const stream = await openStream(app, { url: '/' })
    const text = stream.text()
    await eventually(() => app.streaming.stats().events === 2)
    await new Promise(resolve => setImmediate(resolve))
    stream.disconnect()
    t.equal(await text, 'data: 1\n\ndata: 2\n\n')
    t.match(await stream.next(), { data: '1' })
    t.match(await stream.next(), { data: '2' })
    t.equal(await stream.next(), undefined)
    await t.rejects(stream.take(1), { message: 'The body ended after 0 of 1 events' })
  })

  t.test('after a cut does not make the body whole', async t => {
    const app = await quietApp(t, app => { app.get('/', (request, reply) => reply.streamWriter(async writer => { await writer.write('half'); throw new Error('late') })) })
    const stream = await openStream(app, { url: '/' })
    await stream.outcome
    stream.disconnect()
    await t.rejects(stream.text())
  })

  t.test('twice, or after the end, is nothing', async t => {
    const app = await quietApp(t, app => { app.get('/', (request, reply) => reply.sse(['one'])) })
    const stream = await openStream(app, { url: '/' })
    t.equal(await stream.text(), 'data: one\n\n')
    t.match(await stream.outcome, { reason: 'completed' })
    stream.disconnect()
    stream.disconnect()
    t.equal(await stream.text(), 'data: one\n\n')
    t.match(await stream.outcome, { reason: 'completed' })
  })
})

t.test('outcome', async t => {
  const app = await quietApp(t, app => {
    app.get('/', (request, reply) => reply.sse(['one', 'two']))
    app.get('/writer', (request, reply) => reply.streamWriter(['text']))
    app.get('/wrong', (request, reply) => reply.sse(42 as never))
    app.get('/late', (request, reply) => reply.sse(async function * () { yield 'one'; throw new Error('late') }()))
  })

  t.test('is the one of the server', async t => {
    const stream = await openStream(app, { url: '/' })
    await stream.text()
    t.match(await stream.outcome, { reason: 'completed', events: 2, bytes: 22, duration: Number })
    const writer = await openStream(app, { url: '/writer' })
    await writer.text()
    t.match(await writer.outcome, { reason: 'completed', events: 0, bytes: 4 })
    const late = await openStream(app, { url: '/late' })
    t.match(await late.take(2), [{ data: 'one' }, { event: 'error' }])
    t.match(await late.outcome, { reason: 'failed', error: { message: 'late' } })
  })

  t.test('is there for a stream that failed before its head', async t => {
    const stream = await openStream(app, { url: '/wrong' })
    t.equal(stream.statusCode, 500)
    t.match(JSON.parse(await stream.text()), { code: 'FST_STREAM_INVALID_SOURCE' })
    t.match(await stream.outcome, { reason: 'failed', error: { code: 'FST_STREAM_INVALID_SOURCE' } })
  })

  t.test('is there for HEAD', async t => {
    const stream = await openStream(app, { method: 'HEAD', url: '/' })
    t.equal(await stream.text(), '')
    t.match(await stream.outcome, { reason: 'completed', events: 0 })
  })
})

t.test('is shown with', async t => {
  const folder = fileURLToPath(new URL('consumers', import.meta.url))
  const vitest = createRequire(import.meta.url).resolve('vitest/vitest.mjs')
  // What the runner of this test says to its children is not for these.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(TAP|_TAPJS|NODE_|TS_NODE)/.test(name)))
  for (const [name, args, passed] of [
    ['node:test', ['--test', '--test-reporter=tap', 'node.test.js'], /^# pass 3$/m],
    ['tap, from CommonJS', ['tap.test.cjs'], /^# \{ total: 8, pass: 8 \}$/m],
    ['vitest', [vitest, 'run', '--root', folder, '--no-cache', '--no-color', 'vitest.test.js'], /Tests {2}3 passed \(3\)/]
  ] as const) {
    t.test(name, async t => {
      const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: folder, env })
      t.match(stdout, passed)
    })
  }
})
