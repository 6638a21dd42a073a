import '../fixtures/guard.ts'
import { get } from 'node:http'
import type { Socket } from 'node:net'
import t from 'tap'
import { eventually, settles, turn } from '../fixtures/clock.ts'
import { chunksOf, fetchRaw, open } from '../fixtures/raw.ts'
import { needsDrain, serve } from '../fixtures/server.ts'
import { Turns } from '../../lib/stream/turns.ts'
import type { EventSource, EventSourceFunction, EventStream } from '../../lib/index.ts'

t.test('the next item is asked for only when the socket wants more', async t => {
  let asked = 0
  let askedTooEarly = 0
  let waits = () => false
  const { port, outcome } = await serve(t, (request, reply) => {
    waits = () => needsDrain(reply.raw)
    return reply.sse((async function * () {
      while (asked++ < 800) {
        if (waits()) askedTooEarly++
        yield 'x'.repeat(32_000)
      }
    })())
  })
  const client = open(t, port)
  client.socket.pause()
  await eventually(() => asked > 1 && waits())
  const askedWhenFull = asked
  await turn(50)
  t.equal(asked, askedWhenFull)
  client.socket.resume()
  await client.end()
  t.equal(askedTooEarly, 0)
  t.match(await outcome(), { reason: 'completed', events: 800, bytes: 800 * 32_008 })
})

t.test('the next item of a sync iterable is asked for only when the socket wants more', async t => {
  let asked = 0
  let askedTooEarly = 0
  const { port } = await serve(t, (request, reply) => reply.sse((function * () {
    while (asked++ < 800) {
      if (needsDrain(reply.raw)) askedTooEarly++
      yield 'x'.repeat(32_000)
    }
  })()))
  await open(t, port).end()
  t.equal(askedTooEarly, 0)
})

t.test('send() resolves true at once while there is room, and when there is room again when there was none', async t => {
  let stream!: EventStream
  let isFull = () => false
  const { port } = await serve(t, async (request, reply) => {
    isFull = () => needsDrain(reply.raw)
    stream = await reply.sse({ maxBuffered: 1 << 30, writeTimeout: 0 })
  })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  t.equal(await settles(stream.send('small')), true)
  t.equal(await stream.send('small'), true)
  client.socket.pause()
  const waiting = stream.send('x'.repeat(20 << 20))
  await turn()
  t.ok(isFull())
  const behind = stream.send('behind')
  t.equal(await settles(Promise.race([waiting, behind])), false)
  client.socket.resume()
  t.equal(await waiting, true)
  t.equal(await behind, true)
  stream.close()
  const text = await client.end()
  t.equal(text.match(/data: behind\n\n/g)?.length, 1)
})

t.test('send() resolves false when the stream has ended, also while it was waiting for room', async t => {
  let stream!: EventStream
  const { port, outcome } = await serve(t, async (request, reply) => { stream = await reply.sse() })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.socket.pause()
  const waiting = stream.send('x'.repeat(20 << 20))
  await turn(3)
  client.destroy()
  t.equal(await waiting, false)
  t.equal(await stream.send('too late'), false)
  t.equal(await stream.comment('too late'), false)
  t.match(await outcome(), { reason: 'disconnected', events: 1 })
})

t.test('send() that waits for room resolves false when the stream is closed meanwhile', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (request, reply) => { stream = await reply.sse() })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.socket.pause()
  const waiting = stream.send('x'.repeat(20 << 20))
  await turn(3)
  stream.close()
  t.equal(await waiting, false)
  t.equal(await stream.send('too late'), false)
  client.socket.resume()
  const text = await client.end()
  t.ok(text.endsWith('\n\n\r\n0\r\n\r\n'), 'what was accepted still arrives')
  t.notMatch(text.slice(-100), 'too late')
})

t.test('send() never rejects because the client left, whatever a loop around it does', async t => {
  const results = new Set<boolean>()
  const { port, outcome, logs } = await serve(t, (request, reply) => reply.sse(async stream => {
    while (!results.has(false)) {
      results.add(await stream.send('x'.repeat(1000)))
      await turn()
    }
    for (let i = 0; i < 100; i++) results.add(await stream.send('again'))
  }))
  const client = open(t, port)
  await client.until('xxx')
  client.destroy()
  t.match(await outcome(), { reason: 'disconnected' })
  await eventually(() => results.size === 2)
  t.same(logs.filter(({ level }) => level >= 40), [])
})

t.test('send() rejects for an invalid event, which is logged once at warn, and the stream goes on', async t => {
  const { port, outcome, logs } = await serve(t, (request, reply) => reply.sse(async stream => {
    await stream.send('before')
    await t.rejects(stream.send({ id: 'a\nb' }), { code: 'FST_STREAM_INVALID_FIELD' })
    await t.rejects(stream.send({ answer: 42 } as object), { code: 'FST_STREAM_INVALID_EVENT', message: /answer/ })
    await t.rejects(stream.comment(42 as never), { code: 'FST_STREAM_INVALID_FIELD' })
    await stream.send('after')
  }))
  const { body } = await fetchRaw(t, port)
  t.equal(body, 'data: before\n\ndata: after\n\n')
  t.match(await outcome(), { reason: 'completed', events: 2 })
  t.match(logs.filter(({ level }) => level >= 40), [
    { level: 40, err: { code: 'FST_STREAM_INVALID_FIELD' } },
    { level: 40, err: { code: 'FST_STREAM_INVALID_EVENT' } },
    { level: 40, err: { code: 'FST_STREAM_INVALID_FIELD' } }
  ])
})

t.test('a bad event sent without await cannot kill the process', async t => {
  const rejections: unknown[] = []
  const note = (reason: unknown) => { rejections.push(reason) }
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))
  const { port } = await serve(t, (request, reply) => reply.sse(async stream => {
    stream.send({ data: 1n })
    await turn(3)
    stream.send('still here')
  }))
  t.equal((await fetchRaw(t, port)).body, 'data: still here\n\n')
  t.same(rejections, [])
})

t.test('sends that nobody waits for queue up to maxBuffered bytes, then the stream is cut', async t => {
  const results: Array<Promise<boolean>> = []
  let isOpenAfterwards: boolean | undefined
  const { port, outcome, logged } = await serve(t, async (request, reply) => {
    const stream = await reply.sse({ maxBuffered: 36 })
    // 18 bytes each: 0, 18 and 36 bytes wait when the first three are sent, 54 when the fourth is.
    for (let i = 0; i < 5; i++) results.push(stream.send('0123456789'))
    isOpenAfterwards = stream.isOpen
  })
  const { isWhole } = await fetchRaw(t, port)
  t.equal(isWhole, false)
  t.equal(isOpenAfterwards, false)
  t.match(await outcome(), { reason: 'overflow', events: 3, bytes: 54 })
  t.same((await Promise.all(results)).slice(3), [false, false])
  t.match(await logged('stream closed'), { level: 40, stream: { reason: 'overflow' } })
})

t.test('maxBuffered is 1 MiB unless told otherwise', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(stream => {
    for (let i = 0; i < 1024; i++) stream.send('x'.repeat(1016))
    // 1 MiB waits for the head, and that is not too much.
    stream.send('one more')
    t.equal(stream.events, 1025)
    t.equal(stream.isOpen, true)
    stream.send('too much')
    t.equal(stream.isOpen, false)
  }), { before: app => app.addHook('onSend', async () => await turn()) })
  await open(t, port).end()
  t.match(await outcome(), { reason: 'overflow' })
})

t.test('what waits in the socket counts for maxBuffered', async t => {
  let stream!: EventStream
  const { port, outcome } = await serve(t, async (request, reply) => { stream = await reply.sse({ maxBuffered: 1000 }) })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.socket.pause()
  while (stream.bufferedBytes === 0) {
    stream.send('x'.repeat(64_000))
    await turn()
  }
  t.ok(stream.bufferedBytes > 1000)
  t.equal(await stream.send('one more'), false)
  t.match(await outcome(), { reason: 'overflow' })
})

t.test('one big event always passes, whatever maxBuffered is', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(async stream => {
    t.equal(await stream.send('x'.repeat(3 << 20)), true)
    t.equal(await stream.send('y'.repeat(3 << 20)), true)
  }, { maxBuffered: 1 }))
  const { body } = await fetchRaw(t, port)
  t.ok(body === `data: ${'x'.repeat(3 << 20)}\n\ndata: ${'y'.repeat(3 << 20)}\n\n`)
  t.match(await outcome(), { reason: 'completed' })
})

t.test('maxBuffered does not concern a source that is asked for its items', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(['x'.repeat(5000), 'y'.repeat(5000)], { maxBuffered: 1 }))
  const { isWhole } = await fetchRaw(t, port)
  t.ok(isWhole)
  t.match(await outcome(), { reason: 'completed', events: 2 })
})

t.test('clients that never read hold next to nothing of the 100 MB that each is offered', async t => {
  const streams: EventStream[] = []
  const text = 'x'.repeat(50_000)
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(stream => {
    streams.push(stream)
    // The fifth is sent everything without a look at what is left of it.
    if (streams.length === 5) for (let i = 0; i < 2000; i++) stream.send(text)
    return streams.length % 2 === 0
      ? (function * () { for (let i = 0; i < 2000; i++) yield text })()
      : (async function * () { for (let i = 0; i < 2000; i++) yield text })()
  }))
  for (let i = 1; i <= 5; i++) {
    open(t, port).socket.pause()
    await eventually(() => streams.length === i)
  }
  let last = -1
  for (const bytes = () => streams.reduce((sum, stream) => sum + stream.bytes, 0); bytes() !== last; await turn(50)) last = bytes()
  t.match(await outcome(), { reason: 'overflow' })
  t.equal(streams[4].isOpen, false)
  for (const stream of streams.slice(0, 4)) {
    t.equal(stream.isOpen, true)
    t.ok(stream.bufferedBytes < 200_000, `${stream.bufferedBytes} bytes wait`)
  }
})

t.test('events that are ready in the same turn share one write', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (request, reply) => { stream = await reply.sse() })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  stream.send('1')
  await null
  stream.send({ id: 2, data: Buffer.from('2') })
  await stream.send('3')
  stream.comment('4')
  await client.until('4')
  stream.close()
  t.same(chunksOf(await client.end()), ['data: 1\n\nid: 2\ndata: 2\n\ndata: 3\n\n: 4\n', ''])
})

t.test('the items of a short list share one write', async t => {
  const writes: unknown[][] = []
  const { port } = await serve(t, (request, reply) => {
    const write = reply.raw.write.bind(reply.raw) as (...args: unknown[]) => boolean
    t.capture(reply.raw, 'write', (...args: unknown[]) => { writes.push(args); return write(...args) })
    return reply.sse(['1', '2', '3'])
  })
  t.ok((await open(t, port).end()).endsWith('\r\n\r\ndata: 1\n\ndata: 2\n\ndata: 3\n\n'), 'the head, the body and the end')
  // None when it is all in the end().
  t.ok(writes.length <= 1)
})

t.test('every event leaves at once, also while the source waits for something else', async t => {
  let next = () => {}
  const step = () => new Promise<void>(resolve => { next = resolve })
  const { port } = await serve(t, (request, reply) => reply.sse((async function * () {
    yield 'one'
    await step()
    yield 'two'
    await step()
  })()))
  const client = open(t, port)
  await client.until('data: one\n\n')
  next()
  await client.until('data: two\n\n')
  next()
  await client.end()
})

t.test('an event that is sent is with the system before the event loop turns', async t => {
  let stream!: EventStream
  let socket!: Socket
  const { port } = await serve(t, async (request, reply) => {
    socket = request.raw.socket
    stream = await reply.sse()
  })
  await open(t, port).until('\r\n\r\n')
  const before = socket.bytesWritten
  let hasTurned = false
  setImmediate(() => { hasTurned = true })
  stream.send('one')
  for (let ticks = 0; ticks < 10; ticks++) await new Promise<void>(resolve => process.nextTick(resolve))
  t.ok(socket.bytesWritten > before)
  t.equal(hasTurned, false)
})

t.test('what send() and comment() are given leaves at once, also when nobody awaits it', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (request, reply) => { stream = await reply.sse() })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  for (const text of ['one', 'two']) {
    stream.send(text)
    await client.until(`data: ${text}\n\n`)
    stream.comment(text)
    await client.until(`: ${text}\n\r\n`)
  }
})

/** Sources that compute for about a millisecond an item and never wait; they give up when nothing else ever runs. */
const busySources: Record<string, (note: { items: number, isReleased: boolean }) => EventSource | EventSourceFunction> = {
  'a sync iterable': note => (function * () {
    try { while (busy(note)) yield 'tick' } finally { note.isReleased = true }
  })(),
  'an async generator': note => (async function * () {
    try { while (busy(note)) yield 'tick' } finally { note.isReleased = true }
  })(),
  'a function that only awaits send()': note => async stream => {
    while (busy(note) && await stream.send('tick'));
    note.isReleased = true
  }
}

function busy (note: { items: number }): boolean {
  const until = performance.now() + 1
  while (performance.now() < until);
  return note.items++ < 2000
}

for (const [name, source] of Object.entries(busySources)) {
  t.test(`${name} that never waits is flushed, and lets other requests and aborts through`, async t => {
    const note = { items: 0, isReleased: false }
    const { url, port, outcome } = await serve(t, (request, reply) => reply.sse(source(note)), {}, app => {
      app.get('/other', async () => 'hello')
    })
    const client = open(t, port)
    await client.until('data: tick\n\n')
    const status = await new Promise(resolve => get(`${url}/other`, { agent: false }, response => resolve(response.resume().statusCode)))
    t.equal(status, 200)
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected' })
    await eventually(() => note.isReleased)
    t.ok(note.items < 2000, `it was stopped at item ${note.items}`)
  })

  t.test(`${name} that never waits turns the event loop at least every 10 ms`, async t => {
    const note = { items: 0, isReleased: false }
    const itemsAtTurns: number[] = []
    const { port } = await serve(t, (request, reply) => {
      const watch = () => {
        itemsAtTurns.push(note.items)
        if (note.items < 100) setImmediate(watch)
      }
      setImmediate(watch)
      return reply.sse(source(note))
    })
    const client = open(t, port)
    await eventually(() => note.items >= 100)
    client.destroy()
    const steps = itemsAtTurns.map((items, i) => items - (itemsAtTurns[i - 1] ?? 0))
    t.ok(steps.length >= 8 && Math.max(...steps) <= 11, `${Math.max(...steps)} items of 1 ms in one turn`)
  })
}

t.test('a source that never waits turns the event loop at least every 64 KiB', async t => {
  // inject() has no socket that would make it wait.
  const itemsAtTurns: number[] = []
  let items = 0
  const { app } = await serve(t, (request, reply) => {
    const watch = () => {
      itemsAtTurns.push(items)
      if (items < 1024) setImmediate(watch)
    }
    setImmediate(watch)
    return reply.sse((function * () { while (items++ < 1024) yield 'x'.repeat(1016) })())
  })
  const { body } = await app.inject('/')
  t.equal(body.length, 1 << 20)
  const steps = itemsAtTurns.map((item, i) => item - (itemsAtTurns[i - 1] ?? 0))
  t.ok(Math.max(...steps) <= 65, `${Math.max(...steps)} KiB in one turn`)
})

t.test('a turn is due after 64 KiB or 10 ms, and not before', async t => {
  const now = t.capture(performance, 'now', () => time)
  let time = 1000
  const turns = new Turns()
  t.equal(turns.isDue(65_535), false)
  t.equal(turns.isDue(65_536), true)
  time = 1009.9
  t.equal(turns.isDue(0), false)
  time = 1010
  t.equal(turns.isDue(0), true)
  await turns.turn(100_000)
  t.equal(turns.isDue(165_535), false)
  t.equal(turns.isDue(165_536), true)
  now.restore()
})

t.test('an abort of options.signal is served while a source never waits', async t => {
  const controller = new AbortController()
  const note = { items: 0, isReleased: false }
  const { port, outcome } = await serve(t, (request, reply) => {
    setImmediate(() => setImmediate(() => controller.abort(new Error('enough'))))
    return reply.sse(busySources['an async generator'](note), { signal: controller.signal })
  })
  await open(t, port).end()
  t.match(await outcome(), { reason: 'aborted', error: { message: 'enough' } })
  t.ok(note.items < 200)
})
