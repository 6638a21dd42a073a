import '../fixtures/guard.ts'
import { Readable } from 'node:stream'
import { setImmediate as immediate } from 'node:timers/promises'
import { MessageChannel } from 'node:worker_threads'
import t from 'tap'
import { request } from 'undici'
import { eventually, turn } from '../fixtures/clock.ts'
import { chunksOf, fetchRaw, open } from '../fixtures/raw.ts'
import { needsDrain, serve, type ServeOptions } from '../fixtures/server.ts'
import type { StreamWriter, StreamWriterCallback, StreamWriterOptions } from '../../lib/index.ts'

type Test = Parameters<typeof serve>[0]

/** A server whose `GET /` is `reply.streamWriter(source, options)`. */
async function writing (t: Test, source: unknown, options?: StreamWriterOptions, serveOptions?: ServeOptions) {
  return await serve(t, (request, reply) => reply.streamWriter(source as StreamWriterCallback, options), serveOptions)
}

t.test('a round', async t => {
  t.test('follows the other until one returns false', async t => {
    const rounds: number[] = []
    const { port, outcome } = await writing(t, (writer: StreamWriter) => {
      rounds.push(writer.round)
      writer.write(`${writer.round}\n`)
      if (writer.round === 3) return false
    })
    const { head, body, isWhole } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1\.1 200 OK/)
    t.equal(body, '0\n1\n2\n3\n')
    t.equal(isWhole, true)
    t.strictSame(rounds, [0, 1, 2, 3])
    t.match(await outcome(), { reason: 'completed', events: 0, bytes: 8 })
  })

  t.test('is the last one when it resolves with false', async t => {
    let calls = 0
    const { port } = await writing(t, async (writer: StreamWriter) => {
      calls++
      await writer.write('x')
      return writer.round < 2
    })
    t.match(await fetchRaw(t, port), { body: 'xxx', isWhole: true })
    t.equal(calls, 3)
  })

  t.test('that returns or resolves with true or undefined is followed by the next', async t => {
    const results = [true, undefined, Promise.resolve(true), Promise.resolve(undefined), false]
    const { port } = await writing(t, (writer: StreamWriter) => {
      writer.write(`${writer.round}`)
      return results[writer.round]
    })
    t.match(await fetchRaw(t, port), { body: '01234', isWhole: true })
  })

  t.test('is the last one when it calls writer.end()', async t => {
    let calls = 0
    const { port, outcome } = await writing(t, async (writer: StreamWriter) => {
      calls++
      writer.write(`${writer.round}`)
      if (writer.round === 2) writer.end()
    })
    t.match(await fetchRaw(t, port), { body: '012', isWhole: true })
    t.match(await outcome(), { reason: 'completed' })
    await turn(5)
    t.equal(calls, 3)
  })

  t.test('is the last one when it throws', async t => {
    for (const callback of [
      (writer: StreamWriter) => { writer.write('x'); if (writer.round === 2) throw new Error('boom') },
      async (writer: StreamWriter) => { writer.write('x'); if (writer.round === 2) throw new Error('boom') }
    ]) {
      let calls = 0
      const { port, outcome } = await writing(t, (writer: StreamWriter) => { calls++; return callback(writer) })
      await fetchRaw(t, port)
      t.match(await outcome(), { reason: 'failed', error: { message: 'boom' } })
      await turn(5)
      t.equal(calls, 3)
    }
  })

  t.test('is the last one when the client leaves while it waits', async t => {
    let calls = 0
    let release!: () => void
    const { port, outcome } = await writing(t, async (writer: StreamWriter) => {
      calls++
      writer.write('x')
      await new Promise<void>(resolve => { release = resolve })
    })
    const client = open(t, port)
    await client.until('x')
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected', bytes: 1 })
    release()
    await turn(5)
    t.equal(calls, 1)
  })

  t.test('does not begin when the stream has ended while the loop turned', async t => {
    let calls = 0
    const { port, outcome } = await writing(t, (writer: StreamWriter) => {
      calls++
      writer.write('x')
      setImmediate(() => writer.end())
    })
    t.match(await fetchRaw(t, port), { body: 'x', isWhole: true })
    await outcome()
    await turn(5)
    t.equal(calls, 1)
  })

  t.test('does not begin when the client leaves while the socket is full', async t => {
    let calls = 0
    const { port, outcome } = await writing(t, (writer: StreamWriter) => {
      calls++
      writer.write(Buffer.alloc(16 << 20))
    })
    const client = open(t, port)
    await client.until('\r\n\r\n')
    client.socket.pause()
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected' })
    await turn(5)
    t.equal(calls, 1)
  })

  t.test('begins only when the one before has settled', async t => {
    let running = 0
    let most = 0
    const { port } = await writing(t, async (writer: StreamWriter) => {
      most = Math.max(most, ++running)
      await immediate()
      writer.write('x')
      await immediate()
      running--
      return writer.round < 5
    })
    t.match(await fetchRaw(t, port), { body: 'xxxxxx', isWhole: true })
    t.equal(most, 1)
  })

  t.test('sends all it wrote before the next one begins, in one write', async t => {
    const { port } = await writing(t, (writer: StreamWriter) => {
      writer.write(`${writer.round}a`)
      writer.write(`${writer.round}b`)
      return writer.round < 3
    })
    t.strictSame(chunksOf(await open(t, port).end()), ['0a0b', '1a1b', '2a2b', '3a3b', ''])
  })

  t.test('sends all it wrote also when it is the last: it returns false, ends, or throws', async t => {
    const last: Array<[(writer: StreamWriter) => unknown, boolean]> = [
      [() => false, true],
      [writer => { writer.end() }, true],
      [async () => false, true],
      [() => { throw new Error('boom') }, false],
      [async () => { throw new Error('boom') }, false],
      [() => 42, false]
    ]
    for (const [end, whole] of last) {
      const { port } = await writing(t, (writer: StreamWriter) => {
        writer.write(`${writer.round}\n`)
        if (writer.round < 2) return
        writer.write('the last\n')
        return end(writer)
      })
      const { body, isWhole } = await fetchRaw(t, port)
      t.equal(body, '0\n1\n2\nthe last\n')
      t.equal(isWhole, whole)
    }
  })

  t.test('sends all it wrote also when the first is the last, and it throws', async t => {
    for (const callback of [
      (writer: StreamWriter) => { writer.write('row\n'); throw new Error('boom') },
      async (writer: StreamWriter) => { await writer.write('row\n'); throw new Error('boom') },
      async function * () { yield 'row\n'; throw new Error('boom') },
      function * () { yield 'row\n'; throw new Error('boom') }
    ]) {
      const { port } = await writing(t, callback)
      const { head, body, isWhole } = await fetchRaw(t, port)
      t.match(head, /^HTTP\/1\.1 200 OK/)
      t.equal(body, 'row\n')
      t.equal(isWhole, false)
    }
  })

  t.test('begins only when the socket wants more', async t => {
    let rounds = 0
    let tooEarly = 0
    let isFull = () => false
    const { port, outcome } = await serve(t, (request, reply) => reply.streamWriter(writer => {
      isFull = () => needsDrain(reply.raw)
      if (isFull()) tooEarly++
      rounds++
      writer.write('x'.repeat(32_000))
      return rounds < 800
    }))
    const client = open(t, port)
    client.socket.pause()
    await eventually(() => isFull())
    const roundsWhenFull = rounds
    await turn(50)
    t.equal(rounds, roundsWhenFull)
    client.socket.resume()
    await client.end()
    t.equal(tooEarly, 0)
    t.match(await outcome(), { reason: 'completed', bytes: 800 * 32_000 })
  })

  t.test('begins only after a turn of the loop, also when it has waited itself', async t => {
    for (const wait of [() => undefined, async () => {}, async () => { await immediate() }]) {
      const order: string[] = []
      const { port } = await writing(t, (writer: StreamWriter) => {
        order.push(`round ${writer.round}`)
        if (writer.round === 2) return false
        const waited = wait()
        if (waited === undefined) setImmediate(() => order.push('turn'))
        return waited?.then(() => { setImmediate(() => order.push('turn')) })
      })
      await fetchRaw(t, port)
      t.strictSame(order, ['round 0', 'turn', 'round 1', 'turn', 'round 2'])
    }
  })

  t.test('begins after a turn of the loop also when the one before had to wait for the socket', async t => {
    const order: string[] = []
    const { port } = await serve(t, (request, reply) => reply.streamWriter(writer => {
      order.push(`round ${writer.round}`)
      if (writer.round === 1) return false
      writer.write(Buffer.alloc(16 << 20))
      reply.raw.on('drain', () => {
        order.push('drain')
        setImmediate(() => order.push('turn'))
      })
    }))
    await open(t, port).end()
    t.ok(order.includes('drain'))
    t.strictSame(order.slice(-2), ['turn', 'round 1'])
  })
})

t.test('what a callback returns', async t => {
  t.test('is refused when it is neither false, true, undefined nor a source', async t => {
    for (const value of [0, 1, '', 'text', null, {}, Symbol('s'), () => 'x', Buffer.from('x'), new Response('x')]) {
      for (const result of [value, Promise.resolve(value)]) {
        let calls = 0
        const { port, outcome } = await writing(t, () => { calls++; return result })
        const { head, body } = await fetchRaw(t, port)
        t.match(head, /^HTTP\/1\.1 500/)
        t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: 'The source must be what a callback returns: false, true, undefined, an (async) iterable or a stream' })
        t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_SOURCE' } })
        t.equal(calls, 1)
      }
    }
  })

  t.test('is refused after the head too, and the body is cut', async t => {
    const { port, outcome } = await writing(t, (writer: StreamWriter) => {
      writer.write(`${writer.round}`)
      return writer.round < 2 ? true : 'false'
    })
    t.match(await fetchRaw(t, port), { body: '012', isWhole: false })
    t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_SOURCE' } })
  })
})

t.test('a source', async t => {
  const bytes = Buffer.from('grün €')
  const sources: Array<[name: string, make: () => unknown, body?: string]> = [
    ['an array', () => ['a', 'b', 'c']],
    ['a set', () => new Set(['a', 'b', 'c'])],
    ['a generator', () => (function * () { yield 'a'; yield Buffer.from('b'); yield 'c' })()],
    ['an iterable of promises', () => [Promise.resolve('a'), 'b', Promise.resolve('c')]],
    ['an async generator', () => (async function * () { yield 'a'; await immediate(); yield 'b'; yield Buffer.from('c') })()],
    ['an async iterable', () => ({ async * [Symbol.asyncIterator] () { yield 'a'; yield 'b'; yield 'c' } })],
    ['a Readable', () => Readable.from(['a', 'b', 'c'])],
    ['a Readable of bytes, whose characters are split', () => Readable.from([bytes.subarray(0, 3), bytes.subarray(3, 7), bytes.subarray(7)], { objectMode: false }), 'grün €'],
    ['a web stream', () => new ReadableStream({ start (controller) { for (const chunk of ['a', 'b', 'c']) controller.enqueue(chunk); controller.close() } })],
    ['a web stream of bytes, whose characters are split', () => new Blob(['grün €']).stream(), 'grün €'],
    ['a source that is empty', () => [], '']
  ]
  const ways: Array<[name: string, way: (source: unknown, called: () => void) => unknown]> = [
    ['given directly', source => source],
    ['returned', (source, called) => () => { called(); return source }],
    ['resolved with', (source, called) => async () => { called(); await immediate(); return source }]
  ]
  for (const [name, make, expected = 'abc'] of sources) {
    for (const [how, way] of ways) {
      t.test(`${name}, ${how}, is the body, and ends it`, async t => {
        let calls = 0
        const { port, outcome } = await writing(t, way(make(), () => calls++))
        const { head, body, isWhole } = await fetchRaw(t, port)
        t.match(head, /^HTTP\/1\.1 200 OK[^]*content-type: text\/plain; charset=utf-8/)
        t.equal(Buffer.from(body, 'latin1').toString(), expected)
        t.equal(isWhole, true)
        t.match(await outcome(), { reason: 'completed', bytes: Buffer.byteLength(expected) })
        t.equal(calls, how === 'given directly' ? 0 : 1)
      })
    }
  }

  t.test('of bytes is sent byte for byte, also what is no text', async t => {
    for (const make of [
      () => Readable.from([Buffer.from([0xff, 0, 0xc3])], { objectMode: false }),
      () => new Blob([new Uint8Array([0xff, 0, 0xc3])]).stream(),
      () => [new Uint8Array([0xff, 0, 0xc3])]
    ]) {
      const { port, outcome } = await writing(t, make())
      t.match(await fetchRaw(t, port), { body: '\xff\0\xc3', isWhole: true })
      t.match(await outcome(), { bytes: 3 })
    }
  })

  t.test('of a generator function is made once, with the writer', async t => {
    for (const callback of [
      function * (writer: StreamWriter) { yield `${writer.round}`; yield 'b' },
      async function * (writer: StreamWriter) { yield `${writer.round}`; yield 'b' }
    ]) {
      const { port } = await writing(t, callback)
      t.match(await fetchRaw(t, port), { body: '0b', isWhole: true })
    }
  })

  t.test('that a later round returns ends the body as well', async t => {
    const { port } = await writing(t, (writer: StreamWriter) => {
      writer.write(`${writer.round}`)
      return writer.round < 2 ? undefined : ['the', ' rest']
    })
    t.match(await fetchRaw(t, port), { body: '012the rest', isWhole: true })
  })

  t.test('has each chunk sent at once, also while it waits for the next', async t => {
    let go!: () => void
    const { port } = await writing(t, async function * () {
      for (const chunk of ['first', 'second']) {
        yield chunk
        await new Promise<void>(resolve => { go = resolve })
      }
    })
    const client = open(t, port)
    await client.until('first')
    go()
    await client.until('second')
    go()
    t.match(await client.end(), /second\r\n0\r\n\r\n$/)
  })

  t.test('is asked for its next chunk only when the socket wants more', async t => {
    let asked = 0
    let askedTooEarly = 0
    let isFull = () => false
    const { port } = await serve(t, (request, reply) => reply.streamWriter(async function * () {
      isFull = () => needsDrain(reply.raw)
      while (asked++ < 800) {
        if (isFull()) askedTooEarly++
        yield 'x'.repeat(32_000)
      }
    }))
    const client = open(t, port)
    client.socket.pause()
    await eventually(() => isFull())
    const askedWhenFull = asked
    await turn(50)
    t.equal(asked, askedWhenFull)
    client.socket.resume()
    await client.end()
    t.equal(askedTooEarly, 0)
  })

  t.test('with an invalid chunk first is an error reply, and after the head a cut body', async t => {
    for (const [chunks, status, sent] of [[[{ id: 1 }], 500, undefined], [['a', 7], 200, 'a']] as const) {
      const { port, outcome } = await writing(t, chunks)
      const { head, body, isWhole } = await fetchRaw(t, port)
      t.ok(head.startsWith(`HTTP/1.1 ${status}`))
      if (sent === undefined) {
        t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_CHUNK', message: /writer\.json\(row\)/ })
      } else {
        t.match({ body, isWhole }, { body: sent, isWhole: false })
      }
      t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_CHUNK' } })
    }
  })

  t.test('that is none is refused', async t => {
    for (const source of [undefined, null, 'text', Buffer.from('x'), 7, true, {}, new Response('x')]) {
      const { port, outcome } = await writing(t, source)
      const { head, body } = await fetchRaw(t, port)
      t.match(head, /^HTTP\/1\.1 500/)
      t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: 'The source must be a callback, an (async) iterable or a stream' })
      t.match(await outcome(), { reason: 'failed' })
    }
  })

  t.test('that throws when it is asked for its iterator is an error reply', async t => {
    const { port } = await writing(t, { [Symbol.iterator] () { throw Object.assign(new Error('no iterator'), { statusCode: 418 }) } })
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1\.1 418/)
    t.match(JSON.parse(body), { message: 'no iterator' })
  })
})

/** Sources that wait after their first chunk, and how often each was let go of. */
function watched () {
  const released = { count: 0, read: 0 }
  const until = new Promise<void>(() => {})
  const iterator = (next: () => unknown) => ({
    next: () => { released.read++; return next() },
    return: () => { released.count++; return { done: true, value: undefined } }
  })
  return {
    released,
    until,
    make: {
      iterable: () => ({ [Symbol.iterator]: () => iterator(() => ({ done: false, value: released.read > 1 ? until : 'x' })) }),
      'async iterable': () => ({ [Symbol.asyncIterator]: () => iterator(async () => { if (released.read > 1) await until; return { done: false, value: 'x' } }) }),
      Readable: () => new Readable({
        read () { if (released.read++ === 0) this.push('x') },
        destroy (error, done) { released.count++; done(error) }
      }),
      'web stream': () => new ReadableStream({
        pull (controller) { if (released.read++ === 0) controller.enqueue('x'); else return until },
        cancel () { released.count++ }
      }, { highWaterMark: 0 })
    }
  }
}
type SourceKind = keyof ReturnType<typeof watched>['make']
const sourceKinds = Object.keys(watched().make) as SourceKind[]

t.test('a source is released exactly once', async t => {
  for (const kind of sourceKinds) {
    t.test(`${kind}, when the client leaves while it waits`, async t => {
      for (const way of [(source: unknown) => source, (source: unknown) => () => source, (source: unknown) => async () => source]) {
        const { released, make } = watched()
        const { port, outcome } = await writing(t, way(make[kind]()))
        const client = open(t, port)
        await client.until('x')
        client.destroy()
        await outcome()
        await turn(5)
        t.equal(released.count, 1)
      }
    })

    t.test(`${kind}, unread, for HEAD, 204 and 304`, async t => {
      for (const [method, status] of [['HEAD', 200], ['GET', 204], ['GET', 304]] as const) {
        const { released, make } = watched()
        const { port, outcome } = await serve(t, (request, reply) => reply.code(status).streamWriter(make[kind]() as never))
        const { head, body } = await fetchRaw(t, port, { method })
        t.ok(head.startsWith(`HTTP/1.1 ${status}`))
        t.equal(body, '')
        t.match(await outcome(), { reason: 'completed', bytes: 0 })
        await turn(5)
        t.match(released, { count: 1, read: 0 })
      }
    })

    t.test(`${kind}, unread, when the call is refused`, async t => {
      const refusals: Array<[options: object, serveOptions: ServeOptions, code: string]> = [
        [{ heartbeat: 1 }, {}, 'FST_STREAM_INVALID_OPTION'],
        [{ signal: AbortSignal.abort() }, {}, 'FST_STREAM_UNAVAILABLE'],
        [{}, { streaming: { maxStreamsPerClient: 1, clientKey () { throw Object.assign(new Error('who?'), { code: 'WHO' }) } } }, 'WHO']
      ]
      for (const [options, serveOptions, code] of refusals) {
        const { released, make } = watched()
        const { port } = await writing(t, make[kind](), options, serveOptions)
        t.match(JSON.parse((await fetchRaw(t, port)).body), { code })
        await turn(5)
        t.match(released, { count: 1, read: 0 })
      }
    })

    t.test(`${kind}, unread, when the reply streams already`, async t => {
      const { released, make } = watched()
      const { port, outcome } = await serve(t, (request, reply) => {
        const first = reply.streamWriter(['the first'])
        t.throws(() => reply.streamWriter(make[kind]() as never), { code: 'FST_STREAM_ALREADY_STREAMING' })
        return first
      })
      t.match(await fetchRaw(t, port), { body: 'the first', isWhole: true })
      await outcome()
      t.match(released, { count: 1, read: 0 })
    })

    t.test(`${kind}, unread, when the promise of it settles after the client has left`, async t => {
      const { released, make } = watched()
      let resolve!: (source: unknown) => void
      const { port, outcome } = await writing(t, (writer: StreamWriter) => {
        writer.write('waits')
        return new Promise(_resolve => { resolve = _resolve })
      })
      const client = open(t, port)
      await client.until('waits')
      client.destroy()
      await outcome()
      resolve(make[kind]())
      await turn(5)
      t.match(released, { count: 1, read: 0 })
    })

    t.test(`${kind}, unread, when the callback returns it after writer.end()`, async t => {
      const { released, make } = watched()
      const { port } = await writing(t, (writer: StreamWriter) => { writer.end('the end'); return make[kind]() })
      t.match(await fetchRaw(t, port), { body: 'the end', isWhole: true })
      await turn(5)
      t.match(released, { count: 1, read: 0 })
    })
  }

  t.test('a Response, whose body is cancelled, when it is refused', async t => {
    for (const way of [(source: unknown) => source, (source: unknown) => () => source]) {
      const { released, make } = watched()
      const { port } = await writing(t, way(new Response(make['web stream']())))
      t.match(await fetchRaw(t, port), { head: /^HTTP\/1\.1 500/ })
      await turn(5)
      t.match(released, { count: 1, read: 0 })
    }
  })

  t.test('when one of its chunks is refused', async t => {
    let returned = 0
    const { port } = await writing(t, {
      [Symbol.iterator]: () => ({ next: () => ({ done: false, value: 7 }), return: () => { returned++; return { done: true, value: undefined } } })
    })
    t.match(await fetchRaw(t, port), { head: /^HTTP\/1\.1 500/ })
    t.equal(returned, 1)
  })

  t.test('and not at all when it has ended or failed by itself', async t => {
    for (const end of [() => ({ done: true, value: undefined }), () => { throw new Error('boom') }]) {
      let returned = 0
      const { port, outcome } = await writing(t, { [Symbol.iterator]: () => ({ next: end, return: () => { returned++; return { done: true } } }) })
      await fetchRaw(t, port)
      await outcome()
      await turn(5)
      t.equal(returned, 0)
    }
  })
})

t.test('a callback that spins', async t => {
  t.test('is stopped after exactly 1000 rounds that neither wrote nor waited, by an error reply', async t => {
    for (const callback of [() => {}, () => true, async () => {}, async () => { await Promise.resolve(); await new Promise<void>(resolve => process.nextTick(resolve)) }]) {
      let calls = 0
      const { port, outcome } = await writing(t, () => { calls++; return callback() })
      const { head, body } = await fetchRaw(t, port)
      t.match(head, /^HTTP\/1\.1 500/)
      t.match(JSON.parse(body), { code: 'FST_STREAM_SPINNING', message: /neither wrote nor waited for 1000 rounds/ })
      t.equal(calls, 1000)
      t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_SPINNING' } })
    }
  })

  t.test('after its head has its body cut', async t => {
    let calls = 0
    const { port, outcome } = await writing(t, (writer: StreamWriter) => { if (calls++ === 0) writer.write('x') })
    t.match(await fetchRaw(t, port), { body: 'x', isWhole: false })
    t.equal(calls, 1001)
    t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_SPINNING' } })
  })

  t.test('999 times at most between two writes goes on', async t => {
    const { port } = await writing(t, (writer: StreamWriter) => {
      if (writer.round % 1000 === 999) writer.write('x')
      return writer.round < 2999
    })
    t.match(await fetchRaw(t, port), { body: 'xxx', isWhole: true })
  })

  t.test('but waits in every thousandth round goes on', async t => {
    const { port } = await writing(t, (writer: StreamWriter) => {
      if (writer.round === 2500) return false
      return writer.round % 1000 === 999 ? immediate() : undefined
    })
    t.match(await fetchRaw(t, port), { head: /^HTTP\/1\.1 200/, isWhole: true })
  })

  t.test('does so even when its stream is written to by others', async t => {
    let calls = 0
    const { port, outcome } = await writing(t, (writer: StreamWriter) => {
      if (calls++ % 100 === 0) setImmediate(() => writer.write('x'))
    })
    t.match(await fetchRaw(t, port), { body: 'xxxxxxxxxx', isWhole: false })
    t.equal(calls, 1000)
    t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_SPINNING' } })
  })

  t.test('is not one that waits for a timer, a message or a turn in each of its rounds', async t => {
    const { port1, port2 } = new MessageChannel()
    t.teardown(() => port1.close())
    for (const wait of [
      async () => await immediate(),
      async () => await new Promise<void>(resolve => {
        // Arrives before immediates run.
        port2.once('message', resolve)
        port1.postMessage('')
      })
    ]) {
      const { port } = await writing(t, async (writer: StreamWriter) => {
        await wait()
        return writer.round < 1500
      })
      t.match(await fetchRaw(t, port), { head: /^HTTP\/1\.1 200/, body: '', isWhole: true })
    }
  })

  t.test('is not one that waits for the socket', async t => {
    let rounds = 0
    const { port } = await writing(t, async (writer: StreamWriter) => {
      rounds++
      if (writer.round === 0) await writer.write('x')
      await writer.flush()
      await immediate()
      return writer.round < 1100
    })
    t.match(await fetchRaw(t, port), { body: 'x', isWhole: true })
    t.equal(rounds, 1101)
  })
})

t.test('what never waits starves nobody', async t => {
  const sources: Array<[name: string, source: unknown]> = [
    ['a callback', (writer: StreamWriter) => { writer.write('x'.repeat(100)) }],
    ['an async callback', async (writer: StreamWriter) => { await writer.write('x'.repeat(100)) }],
    ['a callback with a loop of its own', async (writer: StreamWriter) => { while (await writer.write('x'.repeat(100))); }],
    ['a callback with a loop of its own that writes empty chunks', async (writer: StreamWriter) => {
      await writer.write('x')
      while (await writer.write(''));
    }],
    ['a generator', function * () { for (;;) yield 'x'.repeat(100) }],
    ['an async generator', async function * () { for (;;) yield 'x'.repeat(100) }],
    ['a generator of empty chunks', function * () { yield 'x'; for (;;) yield '' }]
  ]
  for (const [name, source] of sources) {
    t.test(`${name}: other requests are served, and the client can leave`, async t => {
      const { port, url, outcome } = await serve(t, (request, reply) => reply.streamWriter(source as StreamWriterCallback), {}, app => {
        app.get('/other', async () => 'served')
      })
      const client = open(t, port)
      client.socket.resume()
      await client.until('\r\n\r\n')
      for (let i = 0; i < 3; i++) t.equal(await (await request(`${url}/other`)).body.text(), 'served')
      client.destroy()
      t.match(await outcome(), { reason: 'disconnected' })
    })

    t.test(`${name}: an abort from a timer ends it`, async t => {
      const controller = new AbortController()
      const { port, outcome } = await writing(t, source, { signal: controller.signal })
      const client = open(t, port)
      await client.until('\r\n\r\n')
      setTimeout(() => controller.abort('enough'), 1)
      t.match(await outcome(), { reason: 'aborted', error: 'enough' })
      await client.end()
    })
  }
})
