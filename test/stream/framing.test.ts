import '../fixtures/guard.ts'
import type { ServerResponse } from 'node:http'
import net from 'node:net'
import t from 'tap'
import type { FastifyReply } from 'fastify'
import { deferred, eventually, turn } from '../fixtures/clock.ts'
import { connect, dechunk, fetchRaw, open } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'
import { FramedResponse } from '../../lib/stream/framing.ts'
import type { EventStream, StreamWriter } from '../../lib/index.ts'

/** What a connection got after its first head. */
function bodyOf ({ received }: { received: string }): string {
  return received.slice(received.indexOf('\r\n\r\n') + 4)
}

const latin1 = (text: string): string => Buffer.from(text).toString('latin1')

t.test('each write is one chunk, with its size in bytes: ASCII, other text, and the end', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (_request, reply) => { stream = await reply.sse() })
  const client = open(t, port)
  await eventually(() => stream !== undefined)
  for (const data of ['one', 'é', '😀', 'last']) {
    stream.send(data)
    await client.until(latin1(data))
  }
  stream.close()
  await client.until('0\r\n\r\n')
  t.equal(bodyOf(client), latin1('b\r\ndata: one\n\n\r\n' + 'a\r\ndata: é\n\n\r\n' + 'c\r\ndata: 😀\n\n\r\n' + 'c\r\ndata: last\n\n\r\n' + '0\r\n\r\n'))
})

t.test('bytes are one chunk each, short and long', async t => {
  let writer!: StreamWriter
  const finish = deferred()
  const { port } = await serve(t, (_request, reply) => reply.streamWriter(async own => {
    writer = own
    own.write('head')
    await finish.promise
    return false
  }))
  const client = open(t, port)
  await client.until('head')
  writer.write(Buffer.from([0, 13, 10, 255]))
  await client.until('\xff\r\n')
  writer.write(Buffer.alloc(5000, 'x'))
  await client.until('x\r\n')
  finish.resolve()
  await client.until('0\r\n\r\n')
  t.equal(bodyOf(client), `4\r\nhead\r\n4\r\n\0\r\n\xff\r\n1388\r\n${'x'.repeat(5000)}\r\n0\r\n\r\n`)
})

t.test('what is written in the tick of the head comes after it, in order', async t => {
  let stream!: EventStream
  const { port, app } = await serve(t, async (_request, reply) => {
    stream = await reply.sse()
    stream.send('1')
    await null
    stream.send('2')
    process.nextTick(() => { stream.send('3') })
  })
  const client = open(t, port)
  await client.until('data: 3\n\n')
  t.match(client.received, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n/)
  t.equal(bodyOf(client).replace(/(^|\r\n)[\da-f]+\r\n|\r\n$/g, ''), 'data: 1\n\ndata: 2\n\ndata: 3\n\n')
  await app.close()
})

t.test('a response that was corked gives what it holds before what comes', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (_request, reply) => {
    stream = await reply.sse()
    await turn()
    reply.raw.cork()
    reply.raw.write(': mine\n')
    stream.send('x')
  })
  const client = open(t, port)
  await client.until('data: x\n\n\r\n')
  t.equal(bodyOf(client), '7\r\n: mine\n\r\n9\r\ndata: x\n\n\r\n')
  stream.close()
})

t.test('subscribers share one buffer, framing included', async t => {
  const written: unknown[] = []
  const { port, app } = await serve(t, (_request, reply) => reply.sse(app.streaming.channel('news')), {
    before: app => {
      app.addHook('onRequest', async ({ raw: { socket } }) => {
        const { write } = socket
        socket.write = function (this: net.Socket, ...args: [never]) {
          written.push(args[0])
          return write.apply(this, args)
        } as typeof write
      })
    }
  })
  const clients = Array.from({ length: 3 }, () => open(t, port))
  for (const client of clients) await client.until('event: position')
  written.length = 0
  const id = await app.streaming.channel('news').publish('x')
  for (const client of clients) await client.until('data: x\n\n\r\n')
  t.equal(written.length, 3, 'one write each')
  t.equal(new Set(written).size, 1)
  const block = `id: ${id}\ndata: x\n\n`
  t.equal(String(written[0]), `${block.length.toString(16)}\r\n${block}\r\n`)
})

t.test('a response that somebody watches is written to as any other', async t => {
  const written: string[] = []
  const { port } = await serve(t, (_request, reply) => {
    const { raw } = reply
    const { write } = raw
    raw.write = function (this: FastifyReply['raw'], ...args: Parameters<typeof write>) {
      written.push(String(args[0]))
      return write.apply(this, args)
    } as typeof write
    return reply.sse((async function * () { for (const data of ['1', '2', '3']) { yield data; await turn() } })())
  })
  const { body } = await fetchRaw(t, port)
  t.match(body, 'data: 3\n\n')
  t.equal(written.join(''), 'data: 1\n\ndata: 2\n\ndata: 3\n\n')
})

t.test('a connection that goes on has nothing of the stream left on its socket', async t => {
  let listeners = 0
  const { port } = await serve(t, (request, reply) => {
    listeners = request.raw.socket.listenerCount('drain')
    return reply.sse((async function * () { for (const data of ['1', '2']) { yield data; await turn() } })())
  })
  const client = connect(t, port)
  const counts = []
  for (let i = 0; i < 3; i++) {
    const from = client.received.length
    client.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await client.until('0\r\n\r\n', from)
    counts.push(listeners)
  }
  t.equal(new Set(counts).size, 1)
  t.equal(client.received.match(/data: 2\n\n\r\n0\r\n\r\n/g)?.length, 3)
})

t.test('a stream behind another one on its connection frames when its turn comes', async t => {
  const streams: EventStream[] = []
  const { port } = await serve(t, async (_request, reply) => { streams.push(await reply.sse()) })
  const client = connect(t, port)
  client.write('GET /?1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /?2 HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await eventually(() => streams.length === 2)
  const [first, second] = streams as [EventStream, EventStream]
  second.send('early')
  first.send('a')
  await client.until('data: a')
  first.send('b')
  await client.until('data: b')
  first.close()
  await client.until('data: early')
  second.send('late')
  await client.until('data: late')
  second.close()
  await client.until('data: late\n\n\r\n0\r\n\r\n')
  t.equal(client.received.replace(/HTTP\/1\.1 200 OK\r\n[^]*?\r\n\r\n/g, '<head>'),
    '<head>9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n<head>d\r\ndata: early\n\n\r\nc\r\ndata: late\n\n\r\n0\r\n\r\n')
})

t.test('what follows a first write that was longer than Node takes at once comes as well', async t => {
  for (const size of [20_000, 70_000, 300_000, 3_000_000]) {
    const { port } = await serve(t, (_request, reply) => reply.sse((async function * () { yield 'x'.repeat(size); await turn(); yield 'last' })()))
    const client = open(t, port)
    await client.until('data: last\n\n')
    t.equal(dechunk(bodyOf(client)).body, `data: ${'x'.repeat(size)}\n\ndata: last\n\n`)
  }
})

// Node.js 26 tells of room at the response when that has held back what it was given, and not at the socket.
t.test("'drain' is that of the socket and that of the response", async t => {
  let drains = 0
  const onDrain = () => { drains++ }
  const { port } = await serve(t, async (_request, reply) => {
    await reply.sse()
    const raw = reply.raw as ServerResponse
    const framed = FramedResponse.of(raw) as FramedResponse
    framed.on('drain', onDrain)
    raw.emit('drain')
    raw.socket?.emit('drain')
    framed.off('drain', onDrain)
    raw.emit('drain')
    raw.socket?.emit('drain')
  })
  await open(t, port).until('\r\n\r\n')
  await eventually(() => drains > 0)
  t.equal(drains, 2)
})
