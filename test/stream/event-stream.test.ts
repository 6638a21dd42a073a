import '../fixtures/guard.ts'
import t from 'tap'
import { turn } from '../fixtures/clock.ts'
import { fetchRaw, open } from '../fixtures/raw.ts'
import { serve, type ServeOptions } from '../fixtures/server.ts'
import type { EventStream, EventStreamOptions } from '../../lib/index.ts'

type Test = Parameters<typeof serve>[0]

async function openStream (t: Test, options?: EventStreamOptions, serveOptions: ServeOptions = {}) {
  let stream!: EventStream
  const server = await serve(t, async (request, reply) => {
    stream = await (options === undefined ? reply.sse() : reply.sse(options))
  }, serveOptions)
  const client = open(t, server.port)
  await client.until('\r\n\r\n')
  return { ...server, client, stream }
}

t.test('reply.sse() resolves with the open stream once the head has been written, and the stream outlives the handler', async t => {
  let isHeadSent: boolean | undefined
  let isReturned = false
  let stream!: EventStream
  const { port } = await serve(t, async (request, reply) => {
    stream = await reply.sse()
    isHeadSent = reply.raw.headersSent
    t.equal(stream.isOpen, true)
    setImmediate(() => { isReturned = true })
  })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  await turn(3)
  t.equal(isHeadSent, true)
  t.equal(isReturned, true)
  t.equal(await stream.send('after the handler'), true)
  await client.until('data: after the handler\n\n')
})

t.test('one plain object is always options', async t => {
  for (const options of [{ retry: 7 }, Object.assign(Object.create(null) as object, { retry: 7 })]) {
    const { client, stream } = await openStream(t, options)
    t.equal(stream.isOpen, true)
    await client.until('retry: 7\n')
  }
})

t.test('reply.sse() resolves with a closed stream when there will be no head of ours', async t => {
  const streams: EventStream[] = []
  const { port, outcome } = await serve(t, async (request, reply) => {
    const query = request.query as Record<string, string>
    if (query.gone) reply.raw.destroy()
    if (query.code) reply.code(Number(query.code))
    streams.push(await (query.refused ? reply.sse({ heartbeat: -1 }) : reply.sse()))
  }, { before: app => app.addHook('onSend', async request => { if ((request.query as { failed?: string }).failed) throw new Error('hook') }) })
  const reasons = {
    '/?refused=1': 'failed',
    '/?failed=1': 'failed',
    '/?gone=1': 'disconnected',
    '/?code=204': 'completed'
  }
  for (const [n, [path, reason]] of Object.entries(reasons).entries()) {
    await open(t, port, { path }).end()
    t.match(await outcome(n), { reason }, path)
    await turn()
    const stream = streams[n]
    t.equal(stream.isOpen, false, path)
    t.equal(stream.signal.aborted, true, path)
    t.equal(await stream.send('nobody hears it'), false, path)
    t.match(await stream.closed, { reason }, path)
  }
  await open(t, port, { method: 'HEAD' }).end()
  t.match(await outcome(4), { reason: 'completed' })
  await turn()
  t.equal(streams[4].isOpen, false, 'HEAD')
})

t.test('send() may be passed around unbound, and so may the other methods', async t => {
  const { client, stream: { send, comment, close, closed } } = await openStream(t)
  t.same(await Promise.all(['one', 'two'].map(send)), [true, true])
  t.equal(await comment('three'), true)
  close()
  t.match(await client.end(), 'data: one\n\ndata: two\n\n: three\n')
  t.match(await closed, { reason: 'closed' })
})

t.test('send() takes a string or an event, with data of any kind', async t => {
  const { client, stream } = await openStream(t, { serialize: data => `<${String(data)}>` })
  await stream.send('text')
  await stream.send({ event: 'x', id: 0, data: 42 })
  await stream.send({ data: Buffer.from('bytes') })
  stream.close()
  t.match(await client.end(), 'data: text\n\nevent: x\nid: 0\ndata: <42>\n\ndata: bytes\n\n')
})

t.test('comment() without a text is an empty comment line; each line of a text is one', async t => {
  const { client, stream } = await openStream(t)
  await stream.comment()
  await stream.comment('a\r\nb')
  stream.close()
  t.match(await client.end(), '\r\n: \n: a\n: b\n\r\n')
})

t.test('close() ends the stream properly and may be called again', async t => {
  const { client, stream, outcome } = await openStream(t)
  stream.close()
  t.equal(stream.isOpen, false)
  t.equal(stream.signal.aborted, true)
  stream.close()
  t.ok((await client.end()).endsWith('\r\n\r\n0\r\n\r\n'))
  t.equal(await stream.closed, await outcome())
  t.match(await outcome(), { reason: 'closed' })
})

t.test('close() from the outside ends a source that waits, and releases it', async t => {
  let isReleased = false
  let stream!: EventStream
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(given => {
    stream = given
    return { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}), return: async () => { isReleased = true; return { done: true, value: undefined } } }) }
  }))
  const client = open(t, port)
  await client.until('\r\n\r\n')
  stream.close()
  t.equal(isReleased, true)
  await client.end()
  t.match(await outcome(), { reason: 'closed' })
})

t.test('signal aborts as soon as the client leaves, also when it is first read then', async t => {
  const { client, stream } = await openStream(t)
  t.equal(stream.signal.aborted, false)
  t.equal(stream.signal, stream.signal)
  client.destroy()
  await stream.closed
  t.equal(stream.signal.aborted, true)
  t.equal(stream.isOpen, false)
})

t.test('events, bytes and bufferedBytes count exactly', async t => {
  const { client, stream } = await openStream(t, { retry: 1, heartbeat: 0 })
  t.same([stream.events, stream.bytes, stream.bufferedBytes], [0, 9, 0])
  stream.send('é')
  stream.comment('c')
  t.same([stream.events, stream.bytes, stream.bufferedBytes], [1, 9 + 10 + 4, 14])
  await client.until(': c\n')
  t.equal(stream.bufferedBytes, 0)
  client.socket.pause()
  stream.send('x'.repeat(20 << 20))
  await turn(10)
  t.ok(stream.bufferedBytes > 1 << 20 && stream.bufferedBytes < (20 << 20) + 100)
  t.same([stream.events, stream.bytes], [2, 23 + (20 << 20) + 8])
  client.destroy()
  t.match(await stream.closed, { events: 2, bytes: 23 + (20 << 20) + 8 })
  t.equal(stream.bufferedBytes, 0)
})

t.test('lastEventId', async t => {
  const long = 'é'.repeat(512)
  const bytes = (text: string) => Buffer.from(text).toString('latin1')
  const cases: Record<string, [request: { path?: string, headers?: string[] }, id: string]> = {
    'is empty when there is none': [{}, ''],
    'is that of the header': [{ headers: ['Last-Event-ID: 42'] }, '42'],
    'is decoded as UTF-8': [{ headers: [`Last-Event-ID: ${bytes('id-é-日本')}`] }, 'id-é-日本'],
    'is that of the query without a header': [{ path: '/?a=b&lastEventId=4%202' }, '4 2'],
    'is the first of the query': [{ path: '/?lastEventId=1&lastEventId=2' }, '1'],
    'is that of the header before that of the query': [{ path: '/?lastEventId=1', headers: ['Last-Event-ID: 2'] }, '2'],
    'is that of the query when the header is empty': [{ path: '/?lastEventId=1', headers: ['Last-Event-ID: '] }, '1'],
    'may be 1,024 bytes long': [{ headers: [`Last-Event-ID: ${bytes(long)}`] }, long],
    'over 1,024 bytes counts as none': [{ headers: [`Last-Event-ID: ${bytes(long)}x`] }, ''],
    'over 1,024 bytes in the query counts as none': [{ path: `/?lastEventId=${encodeURIComponent(long)}x` }, ''],
    'with a line break counts as none': [{ path: '/?lastEventId=a%0Ab' }, ''],
    'with NUL counts as none': [{ path: '/?lastEventId=a%00b' }, ''],
    'with a C1 control character counts as none': [{ headers: [`Last-Event-ID: ${bytes('a\u0085b')}`] }, ''],
    'is read from the raw query string': [{ path: '/?lastEventId[]=1' }, '']
  }
  for (const [name, [request, id]] of Object.entries(cases)) {
    t.test(name, async t => {
      let seen: string | undefined
      const { port } = await serve(t, (request, reply) => reply.sse(stream => {
        seen = stream.lastEventId
        return Promise.resolve()
      }))
      await fetchRaw(t, port, request)
      t.equal(seen, id)
    })
  }
})

t.test('a throw in the handler after await reply.sse() counts as a source that throws', async t => {
  const { port, outcome, logs, logged } = await serve(t, async (request, reply) => {
    const stream = await reply.sse()
    await stream.send('one')
    throw Object.assign(new Error('no more'), { statusCode: 410, code: 'GONE' })
  })
  const { body, isWhole } = await fetchRaw(t, port)
  t.equal(body, 'data: one\n\nevent: error\ndata: {"code":"GONE","message":"no more"}\n\n')
  t.equal(isWhole, true)
  t.match(await outcome(), { reason: 'failed', error: { message: 'no more' }, events: 1 })
  await logged('stream closed')
  await turn(3)
  t.equal(logs.filter(line => JSON.stringify(line).includes('no more')).length, 1)
})

t.test('a function gets the stream and its signal, and one that returns nothing stays open until close()', async t => {
  let stream!: EventStream
  const { port, outcome } = await serve(t, (request, reply) => reply.sse((given, signal) => {
    stream = given
    t.equal(signal, given.signal)
    given.send('one')
  }))
  const client = open(t, port)
  await client.until('data: one\n\n')
  await turn(5)
  t.equal(stream.isOpen, true)
  stream.send('two')
  await client.until('data: two\n\n')
  stream.close()
  await client.end()
  t.match(await outcome(), { reason: 'closed', events: 2 })
})
