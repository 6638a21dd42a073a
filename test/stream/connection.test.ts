import '../fixtures/guard.ts'
import { EventSource as NpmEventSource } from 'eventsource'
import Fastify from 'fastify'
import t from 'tap'
import { EventSource as UndiciEventSource } from 'undici'
import { eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { fetchRaw, open } from '../fixtures/raw.ts'
import { needsDrain, serve, type ServeOptions } from '../fixtures/server.ts'
import streaming, { type EventStream, type EventStreamOptions } from '../../lib/index.ts'

type Test = Parameters<typeof serve>[0]

/** An open stream whose client has its head; time stands still. */
async function openStream (t: Test, options: EventStreamOptions = {}, serveOptions: ServeOptions = {}) {
  let stream!: EventStream
  let isFull = () => false
  const server = await serve(t, async (request, reply) => {
    isFull = () => needsDrain(reply.raw)
    stream = await reply.sse(options)
  }, serveOptions)
  const clock = fakeClock(t)
  const client = open(t, server.port)
  await client.until('\r\n\r\n')
  return { ...server, clock, client, stream, isFull: () => isFull() }
}

/** Makes Math.random() give `value`. */
function random (t: Test, value: number): void {
  const captured = t.capture(Math, 'random', () => value)
  t.teardown(() => captured.restore())
}

t.test('writeTimeout', async t => {
  t.test('cuts a client that accepts nothing for that long while bytes wait', async t => {
    const { clock, client, stream, isFull, outcome, logged } = await openStream(t, { writeTimeout: 5000, heartbeat: 0 })
    client.socket.pause()
    const sent = stream.send('x'.repeat(20 << 20))
    await turn(10)
    t.ok(isFull())
    clock.tick(4999)
    await turn()
    t.equal(stream.isOpen, true)
    clock.tick(1)
    t.equal(stream.isOpen, false)
    t.equal(await sent, false)
    t.match(await outcome(), { reason: 'stalled', events: 1 })
    t.match(await logged('stream closed'), { level: 40, stream: { reason: 'stalled' } })
    client.socket.resume()
    t.notMatch((await client.end()).slice(-50), '0\r\n\r\n', 'the body has no proper end')
  })

  t.test('is 30 seconds unless told otherwise, and 0 turns it off', async t => {
    for (const [writeTimeout, isOpen] of [[undefined, false], [0, true]] as const) {
      const { clock, client, stream } = await openStream(t, { writeTimeout, heartbeat: 0 })
      client.socket.pause()
      stream.send('x'.repeat(20 << 20))
      await turn(10)
      clock.tick(29_999)
      t.equal(stream.isOpen, true)
      clock.tick(1)
      t.equal(stream.isOpen, isOpen)
      clock.tick(86_400_000)
      t.equal(stream.isOpen, isOpen)
      clock.uninstall()
    }
  })

  t.test('never fires on an idle stream', async t => {
    const { clock, client, stream } = await openStream(t, { writeTimeout: 1000, heartbeat: 0 })
    for (const text of ['one', 'two', 'three']) {
      stream.send(text)
      await client.until(`data: ${text}\n\n`)
      await eventually(() => stream.bufferedBytes === 0)
      clock.tick(100_000)
      await turn(2)
      t.equal(stream.isOpen, true)
    }
    t.equal(clock.countTimers(), 0, 'and costs no timer')
  })

  t.test('never fires on a slow client that moves: a 40 MiB event arrives whole', async t => {
    const { clock, client, stream, outcome } = await openStream(t, { writeTimeout: 1000, heartbeat: 0, maxBuffered: 1 << 30 })
    const { socket } = client
    const pause = () => socket.pause()
    socket.on('data', pause).pause()
    stream.send('x'.repeat(40 << 20))
    stream.send('after it')
    let steps = 0
    while (stream.bufferedBytes > 0) {
      const before = stream.bufferedBytes
      while (stream.bufferedBytes === before) {
        socket.resume()
        await turn()
      }
      clock.tick(900)
      await turn()
      steps++
    }
    t.ok(steps > 5, `${steps} × 0.9 s`)
    t.equal(stream.isOpen, true)
    stream.close()
    socket.off('data', pause).resume()
    const text = await client.end()
    t.ok(text.endsWith('data: after it\n\n\r\n0\r\n\r\n'))
    t.match(await outcome(), { reason: 'closed', events: 2, bytes: (40 << 20) + 8 + 16 })
  })

  t.test('starts anew with every progress', async t => {
    const { clock, client, stream } = await openStream(t, { writeTimeout: 1000, heartbeat: 0 })
    client.socket.pause()
    stream.send('x'.repeat(20 << 20))
    await turn(10)
    clock.tick(900)
    const before = stream.bufferedBytes
    client.socket.resume()
    await eventually(() => stream.bufferedBytes < before)
    client.socket.pause()
    await turn(10)
    clock.tick(999)
    t.equal(stream.isOpen, true)
    clock.tick(1)
    t.equal(stream.isOpen, false)
  })

  t.test('small writes while the kernel takes nothing are no progress', async t => {
    const { clock, client, stream, isFull } = await openStream(t, { writeTimeout: 1000, heartbeat: 0, maxBuffered: 1 << 30 })
    client.socket.pause()
    // Fills the kernel, up to the point where small writes are still taken by the socket.
    while (stream.bufferedBytes === 0) {
      stream.send('x'.repeat(60_000))
      await turn(2)
    }
    await turn(10)
    for (let i = 0; i < 9; i++) {
      clock.tick(100)
      stream.send('tick')
      await turn()
    }
    t.ok(stream.isOpen && (isFull() || stream.bufferedBytes > 0))
    clock.tick(100)
    t.equal(stream.isOpen, false)
  })

  t.test('counts from the first write of a stream that was idle before', async t => {
    const { clock, client, stream } = await openStream(t, { writeTimeout: 1000, heartbeat: 0 })
    client.socket.pause()
    // The kernel takes each at once, until it is full.
    for (;;) {
      stream.send('x'.repeat(60_000))
      await turn(5)
      if (stream.bufferedBytes > 0) break
      clock.tick(100)
    }
    clock.tick(999)
    t.equal(stream.isOpen, true)
    clock.tick(1)
    t.equal(stream.isOpen, false)
  })

  t.test('a stream that is closed while bytes wait is cut as well, and stays closed', async t => {
    const { clock, client, stream, outcome } = await openStream(t, { writeTimeout: 1000, heartbeat: 0 })
    client.socket.pause()
    stream.send('x'.repeat(20 << 20))
    await turn(10)
    stream.close()
    clock.tick(1000)
    t.match(await outcome(), { reason: 'closed' })
    client.socket.resume()
    t.notMatch((await client.end()).slice(-50), '0\r\n\r\n')
  })

  t.test('cuts a client that does not take what waits after the end: it is no completed stream', async t => {
    let isFull = () => false
    const { port, outcome } = await serve(t, (request, reply) => {
      isFull = () => needsDrain(reply.raw)
      return reply.sse(async stream => { stream.send('x'.repeat(20 << 20)) }, { writeTimeout: 1000 })
    })
    const clock = fakeClock(t)
    const client = open(t, port)
    client.socket.pause()
    await eventually(() => isFull())
    await turn(10)
    clock.tick(999)
    await turn(2)
    clock.tick(1)
    t.match(await outcome(), { reason: 'stalled', events: 1 })
    client.socket.resume()
    t.notMatch((await client.end()).slice(-50), '0\r\n\r\n')
  })
})

t.test('maxDuration', async t => {
  for (const [value, duration] of [[0, 8000], [0.5, 9000], [1 - Number.EPSILON, 10_000]]) {
    t.test(`ends the stream after ${duration} of 10,000 ms when Math.random() gives ${value}`, async t => {
      random(t, value)
      const { clock, client, stream, outcome, logged } = await openStream(t, { maxDuration: 10_000, heartbeat: 0 })
      clock.tick(duration - 1)
      t.equal(stream.isOpen, true)
      clock.tick(1)
      t.equal(stream.isOpen, false)
      t.ok((await client.end()).endsWith('\r\n\r\n0\r\n\r\n'), 'properly')
      t.match(await outcome(), { reason: 'expired', events: 0, bytes: 0, duration })
      t.match(await logged('stream closed'), { level: 30 })
    })
  }

  t.test('releases the source and aborts the signal, also while the source waits', async t => {
    let isReleased = false
    let reason: unknown
    const { port, outcome } = await serve(t, (request, reply) => reply.sse((stream, signal) => {
      signal.onabort = () => { reason = signal.reason }
      return {
        [Symbol.asyncIterator]: () => ({
          next: () => new Promise<never>(() => {}),
          return: () => { isReleased = true; return new Promise<never>(() => {}) }
        })
      }
    }, { maxDuration: 1000 }))
    const clock = fakeClock(t)
    const client = open(t, port)
    await client.until('\r\n\r\n')
    clock.tick(1000)
    t.ok(isReleased)
    t.match(reason, { name: 'AbortError', reason: 'expired' })
    await client.end()
    t.match(await outcome(), { reason: 'expired' })
  })

  t.test('is off unless set', async t => {
    const { clock, stream } = await openStream(t, { heartbeat: 0 })
    t.equal(clock.countTimers(), 0)
    t.equal(stream.isOpen, true)
  })

  t.test('leaves no timer behind when the stream ends before', async t => {
    const { clock, client, stream } = await openStream(t, { maxDuration: 10_000, heartbeat: 1000 })
    t.equal(clock.countTimers(), 2)
    stream.close()
    await client.end()
    t.equal(clock.countTimers(), 0)
  })
})

t.test('retry', async t => {
  t.test('is sent first', async t => {
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(['one'], { retry: 2500 }))
    t.equal((await fetchRaw(t, port)).body, 'retry: 2500\ndata: one\n\n')
    t.match(await outcome(), { events: 1, bytes: 23 })
  })

  t.test('is sent at once, also by a source that has nothing yet', async t => {
    const { client } = await openStream(t, { retry: 0 })
    await client.until('retry: 0\n')
  })

  t.test('is not sent unless set', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(['one']))
    t.equal((await fetchRaw(t, port)).body, 'data: one\n\n')
  })

  for (const [value, retry] of [[0, 1000], [0.5, 3000], [1 - Number.EPSILON, 5000]]) {
    t.test(`[1000, 5000] gives ${retry} when Math.random() gives ${value}`, async t => {
      const { port } = await serve(t, (request, reply) => reply.sse([], { retry: [1000, 5000] }))
      random(t, value)
      t.equal((await fetchRaw(t, port)).body, `retry: ${retry}\n`)
    })
  }
})

const endBlock = 'event: end\nid: fastify-streaming:end\ndata: {}\n\n'

t.test('reconnect: false', async t => {
  t.test('ends a completed stream with an end event that has a reserved id', async t => {
    const { port, outcome } = await serve(t, (request, reply) => reply.sse(['one'], { reconnect: false }))
    t.equal((await fetchRaw(t, port)).body, `data: one\n\n${endBlock}`)
    t.match(await outcome(), { reason: 'completed', events: 1 })
  })

  t.test('also one that is closed by stream.close()', async t => {
    const { client, stream } = await openStream(t, { reconnect: false })
    stream.close()
    t.match(await client.end(), endBlock)
  })

  t.test('a stream that did not complete has no end event, because its client is to come back', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse((async function * () {
      yield 'one'
      await turn(3)
      throw new Error('broken')
    })(), { reconnect: false }))
    const { body } = await fetchRaw(t, port)
    t.match(body, 'event: error\n')
    t.notMatch(body, 'event: end')
  })

  t.test('without it a stream has no end event', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(['one'], { reconnect: true }))
    t.equal((await fetchRaw(t, port)).body, 'data: one\n\n')
  })

  for (const [name, request] of Object.entries({
    'Last-Event-ID header': { headers: ['Last-Event-ID: fastify-streaming:end'] },
    lastEventId: { path: '/?lastEventId=fastify-streaming%3Aend' }
  })) {
    t.test(`a request that brings the reserved id as ${name} gets 204 before the source starts`, async t => {
      let isStarted = false
      let isReleased = false
      const { port, outcome } = await serve(t, (request, reply) => reply.sse({
        [Symbol.asyncIterator]: () => ({
          next: async () => { isStarted = true; return { done: true, value: undefined } },
          return: async () => { isReleased = true; return { done: true, value: undefined } }
        })
      }, { reconnect: false }))
      const { head, body } = await fetchRaw(t, port, request)
      t.match(head, /^HTTP\/1.1 204 /)
      t.notMatch(head, /text\/event-stream/)
      t.equal(body, '')
      t.equal(isStarted, false)
      t.equal(isReleased, true)
      t.match(await outcome(), { reason: 'completed', events: 0, bytes: 0 })
    })
  }

  t.test('the reserved id means nothing to a stream without the option', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(['one']))
    const { body } = await fetchRaw(t, port, { headers: ['Last-Event-ID: fastify-streaming:end'] })
    t.equal(body, 'data: one\n\n')
  })

  for (const [name, EventSource] of Object.entries({ eventsource: NpmEventSource, undici: UndiciEventSource })) {
    t.test(`EventSource (${name}) gets a finite answer once and stops, and without the option again and again`, async t => {
      for (const reconnect of [false, true]) {
        let requests = 0
        let starts = 0
        const { url } = await serve(t, (request, reply) => {
          requests++
          return reply.sse((async function * () {
            starts++
            yield { id: 1, data: 'answer' }
          })(), { reconnect, retry: 1 })
        })
        const source = new EventSource(url)
        t.teardown(() => source.close())
        let answers = 0
        source.addEventListener('message', () => { answers++ })
        await new Promise<void>(resolve => source.addEventListener('error', () => {
          if (source.readyState === source.CLOSED || answers === 3) resolve()
        }))
        t.equal(source.readyState === source.CLOSED, !reconnect)
        t.equal(answers, reconnect ? 3 : 1)
        t.equal(starts, reconnect ? 3 : 1)
        t.equal(requests, reconnect ? 3 : 2)
        source.close()
      }
    })
  }
})

t.test('leaving', async t => {
  t.test('aborts the signal at once and releases the source, also while the source waits', async t => {
    const order: string[] = []
    const { port, outcome } = await serve(t, async (request, reply) => {
      const { reason } = await reply.sse((stream, signal) => {
        signal.addEventListener('abort', () => { order.push(`signal ${signal.reason.reason}`) })
        return {
          [Symbol.asyncIterator]: () => ({
            next: () => new Promise<never>(() => {}),
            return: () => { order.push('return()'); return new Promise<never>(() => {}) }
          })
        }
      })
      order.push(`outcome ${reason}`)
    })
    const client = open(t, port)
    await client.until('\r\n\r\n')
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected' })
    await turn()
    t.same(order, ['signal disconnected', 'return()', 'outcome disconnected'])
  })

  t.test('nothing waits for a generator that does not listen to the signal', async t => {
    let goOn = () => {}
    let isFinished = false
    const { port, outcome } = await serve(t, (request, reply) => reply.sse((async function * () {
      try {
        yield 'one'
        await new Promise<void>(resolve => { goOn = resolve })
        yield 'two'
      } finally {
        isFinished = true
      }
    })()))
    const client = open(t, port)
    await client.until('data: one\n\n')
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected', events: 1 })
    t.equal(isFinished, false)
    goOn()
    await eventually(() => isFinished)
  })

  t.test('leaves no timer and no listener of ours, on a connection that stays open', async t => {
    const counts: Array<Record<string, number>> = []
    const sources: Array<NonNullable<unknown>> = []
    const controller = new AbortController()
    const add = t.capture(controller.signal, 'addEventListener', controller.signal.addEventListener)
    const remove = t.capture(controller.signal, 'removeEventListener', controller.signal.removeEventListener)
    const { port } = await serve(t, (request, reply) => {
      const { raw: response } = reply
      const { socket } = request.raw
      counts.push(Object.fromEntries(socket.eventNames().map(name => [String(name), socket.listenerCount(name)])))
      sources.push(response)
      return reply.sse(['one'], { signal: controller.signal, maxDuration: 1000, heartbeat: 1000, commitAfter: 10 })
    })
    const clock = fakeClock(t)
    const client = open(t, port, { headers: ['Connection: keep-alive'] })
    let from = 0
    for (let i = 0; i < 20; i++) {
      from = (await client.until('data: one\n\n', from)).length
      client.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n')
    }
    await client.until('data: one\n\n', from)
    t.equal(counts.length, 21)
    t.same(counts.at(-1), counts[1])
    t.equal(clock.countTimers(), 0)
    t.equal(add().length, 21)
    t.equal(remove().length, 21)
  })

  t.test('the response keeps no listener of ours either', async t => {
    let response!: import('node:http').ServerResponse
    let stream!: EventStream
    let before: Record<string, number> = {}
    const count = () => Object.fromEntries(['close', 'finish', 'drain', 'end'].map(name => [name, response.listenerCount(name)]))
    const { port, outcome } = await serve(t, async (request, reply) => {
      response = reply.raw
      before = count()
      stream = await reply.sse()
    })
    const client = open(t, port)
    await client.until('\r\n\r\n')
    client.destroy()
    await outcome()
    t.equal(stream.isOpen, false)
    t.same(count(), before)
  })

  t.test('one signal that 50 streams share gives no warning of a listener leak, and ends them all', async t => {
    const controller = new AbortController()
    const add = t.capture(controller.signal, 'addEventListener', controller.signal.addEventListener)
    const remove = t.capture(controller.signal, 'removeEventListener', controller.signal.removeEventListener)
    const { port, outcome, outcomes } = await serve(t, async (request, reply) => { await reply.sse({ signal: controller.signal }) })
    const clients = Array.from({ length: 50 }, () => open(t, port))
    await Promise.all(clients.map(client => client.until('\r\n\r\n')))
    t.equal(add().length, 1)
    clients[0].destroy()
    await outcome()
    t.equal(remove().length, 0)
    controller.abort(new Error('enough'))
    await Promise.all(clients.slice(1).map(client => client.end()))
    await outcome(49)
    t.same(outcomes.map(({ reason }) => reason), ['disconnected', ...Array(49).fill('aborted')])
    t.equal(remove().length, 1)
  })

  t.test('300 connects and disconnects leave no listener, timer or stream behind', async t => {
    const controller = new AbortController()
    let streams = 0
    const { app, port, outcome, outcomes } = await serve(t, (request, reply) => {
      streams++
      return reply.sse((stream, signal) => { signal.addEventListener('abort', () => { streams-- }) }, { signal: controller.signal, maxDuration: 60_000 })
    })
    const clock = fakeClock(t)
    const listeners = () => app.server.eventNames().map(name => app.server.listenerCount(name))
    const before = listeners()
    for (let i = 0; i < 10; i++) {
      const clients = Array.from({ length: 30 }, () => open(t, port))
      await Promise.all(clients.map(client => client.until('\r\n\r\n')))
      t.equal(streams, 30)
      for (const client of clients) client.destroy()
      await outcome(i * 30 + 29)
    }
    t.equal(streams, 0)
    t.ok(outcomes.every(({ reason }) => reason === 'disconnected'))
    t.same(listeners(), before)
    t.equal(clock.countTimers(), 0)
  })
})

t.test('inject() takes a body of any length from a writer that waits for each chunk', async t => {
  const app = Fastify()
  await app.register(streaming)
  t.teardown(() => app.close())
  const line = `${'x'.repeat(229)}\n`
  app.get('/', (request, reply) => reply.streamWriter(async writer => {
    for (let i = 0; i < 250; i++) await writer.write(line)
    return writer.round < 39
  }))
  const { body } = await app.inject('/')
  t.equal(body.length, 2_300_000)
})
