import './fixtures/guard.ts'
import diagnosticsChannel from 'node:diagnostics_channel'
import Fastify from 'fastify'
import t from 'tap'
import { eventually, turn } from './fixtures/clock.ts'
import { connect, fetchRaw, open, requestText } from './fixtures/raw.ts'
import { serve } from './fixtures/server.ts'
import streaming, { type EventStream, type StreamingStats, type StreamWriter } from '../lib/index.ts'

const noChannels = { channels: 0, subscribers: 0, gaps: 0, frames: 0, frameBytes: 0 }
const none: StreamingStats['closed'] = {
  completed: 0, disconnected: 0, failed: 0, stalled: 0, overflow: 0, lagged: 0, expired: 0, shutdown: 0, closed: 0, aborted: 0
}

/** Every stream that ever was is open or closed. */
function addsUp ({ open, opened, closed }: StreamingStats): boolean {
  return opened === open + Object.values(closed).reduce((sum, count) => sum + count, 0)
}

t.test('an app without streams has counted nothing, under every reason', async t => {
  const { app } = await serve(t, (request, reply) => reply.sse(() => {}))
  t.equal(app.streaming.open, 0)
  t.same(app.streaming.stats(), { ...noChannels, open: 0, opened: 0, closed: none, events: 0, bytes: 0 })
})

t.test('an open event stream counts, and its events and bytes do as they are accepted', async t => {
  let stream!: EventStream
  const { app, port, outcome } = await serve(t, async (request, reply) => { stream = await reply.sse({ retry: 10 }) })
  const client = open(t, port)
  await client.until('retry: 10\n')
  t.equal(app.streaming.open, 1)
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 0, bytes: 'retry: 10\n'.length })
  void stream.send('hi')
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 1, bytes: 'retry: 10\ndata: hi\n\n'.length })
  void stream.comment('no event')
  const bytes = 'retry: 10\ndata: hi\n\n: no event\n'.length
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 1, bytes })
  await t.rejects(stream.send(42 as never))
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 1, bytes }, 'what is refused does not count')
  stream.close()
  t.equal(app.streaming.open, 1, 'until its response has closed')
  t.match(await outcome(), { events: 1, bytes })
  t.same(app.streaming.stats(), { ...noChannels, open: 0, opened: 1, closed: { ...none, closed: 1 }, events: 1, bytes })
  await client.end()
})

t.test('an open writer counts, and its bytes do as they are accepted', async t => {
  let writer!: StreamWriter
  const { app, port, outcome } = await serve(t, (request, reply) => reply.streamWriter(async theWriter => {
    writer = theWriter
    await writer.write('ä')
    await writer.closed
  }))
  const client = open(t, port)
  await client.until('\r\n\r\n')
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 0, bytes: 2 })
  void writer.write(Buffer.alloc(100))
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 0, bytes: 102 })
  void writer.end('last')
  await outcome()
  t.same(app.streaming.stats(), { ...noChannels, open: 0, opened: 1, closed: { ...none, completed: 1 }, events: 0, bytes: 106 })
  await client.end()
})

t.test('heartbeats and our own blocks are bytes, and no events', async t => {
  const { app, port } = await serve(t, (request, reply) => reply.sse(['one'], { reconnect: false }))
  const { body } = await fetchRaw(t, port)
  t.match(body, /event: end/)
  t.match(app.streaming.stats(), { events: 1, bytes: body.length })
})

t.test('a stream is not open before its head', async t => {
  let send!: EventStream['send']
  const { app, port } = await serve(t, (request, reply) => reply.sse(stream => { send = stream.send }, { commitAfter: Infinity }))
  const client = open(t, port)
  await eventually(() => send !== undefined)
  t.same(app.streaming.stats(), { ...noChannels, open: 0, opened: 0, closed: none, events: 0, bytes: 0 })
  void send('hi')
  await client.until('data: hi\n\n')
  t.same(app.streaming.stats(), { ...noChannels, open: 1, opened: 1, closed: none, events: 1, bytes: 10 })
})

t.test('each end is counted under its reason, and everything adds up at any time', async t => {
  const aborter = new AbortController()
  const snapshots: StreamingStats[] = []
  const look = () => { snapshots.push(server.app.streaming.stats()) }
  for (const name of ['fastify-streaming:open', 'fastify-streaming:close']) {
    diagnosticsChannel.subscribe(name, look)
    t.teardown(() => diagnosticsChannel.unsubscribe(name, look))
  }
  const server = await serve(t, (request, reply) => reply.sse(() => {}), { streaming: { onClose: () => look() } }, app => {
    app.get('/completed', (request, reply) => reply.sse(['one', 'two']))
    app.get('/failed', (request, reply) => reply.sse(async function * () { yield 'one'; throw new Error('late') }))
    app.get('/overflow', (request, reply) => reply.sse(async stream => {
      void stream.send('one')
      await turn(3)
      while (stream.isOpen) void stream.send('two')
    }, { maxBuffered: 100 }))
    app.get('/expired', (request, reply) => reply.sse(() => {}, { maxDuration: 1 }))
    app.get('/closed', (request, reply) => reply.sse(stream => { setImmediate(() => stream.close()) }))
    app.get('/aborted', (request, reply) => reply.sse(() => {}, { signal: aborter.signal }))
    app.get('/wrong', (request, reply) => reply.sse(42 as never))
    app.get('/stalled', (request, reply) => reply.sse(['x'.repeat(30 << 20)], { writeTimeout: 20 }))
    app.get('/writer', (request, reply) => reply.streamWriter(['all']))
    app.get('/cut', (request, reply) => reply.streamWriter(async writer => { await writer.write('half'); throw new Error('late') }))
    app.get('/lagged', (request, reply) => reply.sse(app.streaming.channel('big', { history: { events: 1 } }), { lag: 'disconnect' }))
    app.get('/done', (request, reply) => reply.sse(['one'], { reconnect: false }))
  })
  const { app, port, outcomes, outcome } = server
  const stats = () => app.streaming.stats()
  const expected = { ...none }
  /** Ends one stream, or nothing of ours, and looks. */
  const step = async (reason: keyof typeof none | undefined, end: () => Promise<unknown>) => {
    const count = outcomes.length
    await end()
    await outcome(count)
    if (reason !== undefined) expected[reason]++
    t.match(stats(), { open: 0, closed: expected }, String(reason))
    t.ok(addsUp(stats()))
  }
  const get = (path: string) => async () => await fetchRaw(t, port, { path })

  await step('completed', get('/completed'))
  await step('completed', get('/writer'))
  await step('failed', get('/failed'))
  await step('failed', get('/cut'))
  await step('overflow', get('/overflow'))
  await step('expired', get('/expired'))
  await step('closed', get('/closed'))
  await step('aborted', async () => {
    const client = open(t, port, { path: '/aborted' })
    await client.until('\r\n\r\n')
    aborter.abort()
    await client.end()
  })
  await step('disconnected', async () => {
    const client = open(t, port)
    await client.until('\r\n\r\n')
    client.destroy()
  })
  await step('stalled', async () => {
    const client = open(t, port, { path: '/stalled' })
    client.socket.pause()
  })
  await step('lagged', async () => {
    const client = open(t, port, { path: '/lagged' })
    await client.until('event: position')
    client.socket.pause()
    for (let i = 0; i < 200; i++) {
      await app.streaming.channel('big').publish('x'.repeat(100_000))
      await turn()
    }
    client.socket.resume()
  })
  await step(undefined, get('/wrong'))
  await step('completed', async () => await fetchRaw(t, port, { method: 'HEAD' }))
  let last!: string
  await step('completed', async () => { last = endId((await get('/done')()).body) })
  await step('completed', async () => t.match((await fetchRaw(t, port, { path: '/done', headers: [`Last-Event-ID: ${last}`] })).head, / 204 /))
  const client = open(t, port)
  await client.until('\r\n\r\n')
  t.match(stats(), { open: 1, closed: expected })
  await app.close()
  expected.shutdown++
  t.match(stats(), { open: 0, closed: expected })
  t.equal(stats().opened, Object.values(expected).reduce((sum, count) => sum + count, 0))
  t.same(Object.entries(expected).filter(([, count]) => count === 0), [], 'every reason was there')
  t.ok(snapshots.length > 20)
  t.ok(snapshots.every(addsUp), 'as diagnostics and onClose saw it')
})

/** The id with which a finished answer ends. */
function endId (body: string): string {
  return /\nid: (.+)\n/.exec(body)?.[1] as string
}

t.test('the counts are the sums of what the outcomes say', async t => {
  const { app, port, outcomes } = await serve(t, (request, reply) => reply.sse(async function * () {
    yield 'one'
    yield { event: 'two', data: 2 }
    yield { comment: 'three' }
  }))
  for (let i = 0; i < 10; i++) await fetchRaw(t, port)
  await eventually(() => outcomes.length === 10)
  const { events, bytes } = app.streaming.stats()
  t.equal(events, 20)
  t.equal(events, outcomes.reduce((sum, outcome) => sum + outcome.events, 0))
  t.equal(bytes, outcomes.reduce((sum, outcome) => sum + outcome.bytes, 0))
})

t.test('an error before the head is counted nowhere, also when events had been accepted', async t => {
  const { app, port, outcome } = await serve(t, (request, reply) => reply.sse(stream => { void stream.send('one') }), {}, app => {
    app.addHook('onSend', async (request, reply, payload) => {
      if (reply.statusCode === 200) throw Object.assign(new Error('no'), { statusCode: 403 })
      return payload
    })
  })
  t.match((await fetchRaw(t, port)).head, /^HTTP\/1\.1 403 /)
  t.match(await outcome(), { reason: 'failed', events: 0, bytes: 0 })
  t.same(app.streaming.stats(), { ...noChannels, open: 0, opened: 0, closed: none, events: 0, bytes: 0 })
})

t.test('a client that left before the head is counted as disconnected, with nothing sent', async t => {
  let send!: EventStream['send']
  const { app, port, outcome } = await serve(t, (request, reply) => reply.sse(stream => { send = stream.send }, { commitAfter: Infinity }))
  const client = open(t, port)
  await eventually(() => send !== undefined)
  client.destroy()
  await outcome()
  t.same(app.streaming.stats(), { ...noChannels, open: 0, opened: 1, closed: { ...none, disconnected: 1 }, events: 0, bytes: 0 })
})

t.test('open streams that wait behind another on one connection count', async t => {
  const { app, port } = await serve(t, (request, reply) => reply.sse(stream => { void stream.send('hi') }))
  const client = connect(t, port)
  client.write(requestText({ headers: ['Connection: keep-alive'] }).repeat(3))
  await client.until('data: hi\n\n')
  await eventually(() => app.streaming.open === 3)
  t.match(app.streaming.stats(), { open: 3, opened: 3, events: 3, bytes: 30 })
  client.destroy()
  await eventually(() => app.streaming.open === 0)
  t.match(app.streaming.stats(), { opened: 3, closed: { disconnected: 3 }, events: 3, bytes: 30 })
})

t.test('what stats() returns is the caller\'s own', async t => {
  const { app, port } = await serve(t, (request, reply) => reply.sse(['one']))
  const stats = app.streaming.stats()
  stats.closed.completed = 99
  await fetchRaw(t, port)
  await eventually(() => app.streaming.stats().closed.completed === 1)
  t.equal(stats.closed.completed, 99)
})

t.test('each registration has its own counts', async t => {
  const app = Fastify()
  for (const prefix of ['/a', '/b']) {
    await app.register(async scope => {
      await scope.register(streaming, {})
      scope.get('/', (request, reply) => reply.sse(['one']))
      scope.get('/stats', async () => scope.streaming.stats())
    }, { prefix })
  }
  t.teardown(() => app.close())
  await app.inject('/a/')
  await app.inject('/a/')
  t.match((await app.inject('/a/stats')).json(), { opened: 2, closed: { completed: 2 }, events: 2, bytes: 22 })
  t.same((await app.inject('/b/stats')).json(), { ...noChannels, open: 0, opened: 0, closed: none, events: 0, bytes: 0 })
})
