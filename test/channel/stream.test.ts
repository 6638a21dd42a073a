import '../fixtures/guard.ts'
import diagnosticsChannel from 'node:diagnostics_channel'
import http2 from 'node:http2'
import { Transform, type Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { deferred, eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { chunksOf, connect, dechunk, fetchRaw, open, requestText, type RawClient, type RawRequest } from '../fixtures/raw.ts'
import { serve, troubles, type ServeOptions, type TestServer } from '../fixtures/server.ts'
import { memoryBroker, type Broker, type Channel, type EventSource, type EventStream, type EventStreamOptions, type History, type StreamingOptions } from '../../lib/index.ts'

interface ChannelServer extends TestServer {
  news: Channel
  sport: Channel
  channel (name: string): Channel
  /** Opens a stream; resolves when it has its first block. */
  follow (request?: RawRequest): Promise<RawClient>
}

/** A server whose `/` is a stream of the channel `news`, or of what `source` makes. */
async function channelServer (
  t: Test,
  { streaming, call, source, history }: {
    streaming?: StreamingOptions
    call?: EventStreamOptions
    source?: (channel: (name: string) => Channel, request: FastifyRequest, reply: FastifyReply) => unknown
    history?: Partial<History>
  } = {},
  options: ServeOptions = {}
): Promise<ChannelServer> {
  const channel = (name: string): Channel => server.app.streaming.channel(name)
  const server = await serve(t, (request, reply) => {
    const made = source === undefined ? channel('news') : source(channel, request, reply)
    return reply.sse(made as EventSource, call)
  }, { ...options, streaming })
  const news = server.app.streaming.channel('news', { history })
  const sport = server.app.streaming.channel('sport')
  return {
    ...server,
    news,
    sport,
    channel,
    follow: async request => {
      const client = open(t, server.port, request)
      await client.until('\n\n', (await client.until('\r\n\r\n')).indexOf('\r\n\r\n') + 4)
      return client
    }
  }
}

/** What has come of the body, as UTF-8. */
function bodyOf ({ received }: RawClient): string {
  return Buffer.from(dechunk(received.slice(received.indexOf('\r\n\r\n') + 4)).body, 'latin1').toString()
}

/** Resolves when the whole body is this; fails the test when it is something else at last. */
async function isBody (t: Test, client: RawClient, body: string): Promise<void> {
  const wanted = Buffer.byteLength(body)
  const deadline = Date.now() + 10_000
  while (Buffer.byteLength(bodyOf(client)) < wanted && Date.now() < deadline) await turn()
  t.equal(bodyOf(client), body)
}

/** The block that tells a client where it stands. */
const position = (id: string): string => `event: position\nid: ${id}\ndata: {}\n\n`

t.test('the bytes on the wire: the position first, then each event with its id', async t => {
  const { news, follow } = await channelServer(t)
  const before = await news.publish('before')
  const client = await follow()
  t.match(client.received, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(client.received, /\r\ncontent-type: text\/event-stream\r\n/)
  const a = await news.publish({ event: 'headline', data: { a: 'é' } })
  const b = await news.publish('two\r\nlines')
  const c = await news.publish({ event: 'named' })
  const d = await news.publish({ comment: 'said', data: '', retry: 5 }, { key: 'not on the wire' })
  await isBody(t, client,
    `event: position\nid: ${before}\ndata: {}\n\n` +
    `id: ${a}\nevent: headline\ndata: {"a":"é"}\n\n` +
    `id: ${b}\ndata: two\ndata: lines\n\n` +
    `id: ${c}\nevent: named\ndata: \n\n` +
    `id: ${d}\n: said\nretry: 5\ndata: \n\n`)
})

t.test('a comment or a retry alone goes with the id, dispatches nothing, and is not counted', async t => {
  const { news, follow, outcome } = await channelServer(t)
  const before = await news.publish('before')
  const client = await follow()
  const a = await news.publish({ comment: 'two\nlines' })
  const b = await news.publish({ retry: 1000 })
  const c = await news.publish('counted')
  await isBody(t, client, `${position(before)}id: ${a}\n: two\n: lines\n\nid: ${b}\nretry: 1000\n\nid: ${c}\ndata: counted\n\n`)
  news.close()
  t.match(await outcome(), { reason: 'closed', events: 1 })
})

t.test('on an empty channel the position comes as well, and what is published after a drop is not missed', async t => {
  const { news, follow } = await channelServer(t)
  const first = await follow()
  const [, id] = /^event: position\nid: ([0-9a-z]+-[0-9a-f]{12}\.Gfug6Z)\ndata: \{\}\n\n$/.exec(bodyOf(first)) as unknown as [string, string]
  first.destroy()
  const a = await news.publish('1')
  const b = await news.publish('2')
  const again = await follow({ headers: [`Last-Event-ID: ${id}`] })
  await isBody(t, again, `${position(id)}id: ${a}\ndata: 1\n\nid: ${b}\ndata: 2\n\n`)
})

t.test('Last-Event-ID, of the header, else of the query: everything after it, then live', async t => {
  const { news, follow } = await channelServer(t)
  const [a, b, c] = [await news.publish('1'), await news.publish('2'), await news.publish('3')]
  const clients = [
    await follow({ headers: [`Last-Event-ID: ${a}`] }),
    await follow({ path: `/?lastEventId=${a}` }),
    await follow({ path: `/?lastEventId=${c}`, headers: [`last-event-id: ${a}`] }),
    await follow({ path: `/?lastEventId=${a}`, headers: ['Last-Event-ID:'] })
  ]
  const d = await news.publish('4')
  for (const client of clients) {
    await isBody(t, client, `${position(a)}id: ${b}\ndata: 2\n\nid: ${c}\ndata: 3\n\nid: ${d}\ndata: 4\n\n`)
  }
  t.equal(clients.length, 4)
})

t.test('an empty Last-Event-ID is none', async t => {
  const { news, follow } = await channelServer(t)
  const id = await news.publish('1')
  for (const request of [{ headers: ['Last-Event-ID:'] }, { path: '/?lastEventId=' }, { path: '/?lastEventId' }]) {
    await isBody(t, await follow(request), position(id))
  }
})

t.test("replay: 'all' that is retained, or the newest so many, for those who bring no position", async t => {
  const { news, follow } = await replayServer(t)
  const [a, b, c] = [await news.publish('1'), await news.publish('2'), await news.publish('3')]
  const all = await follow({ path: '/?replay=all' })
  const tail = `id: ${b}\ndata: 2\n\nid: ${c}\ndata: 3\n\n`
  const [, birth] = /^event: position\nid: (\S+)\n/.exec(bodyOf(all)) as unknown as [string, string]
  await isBody(t, all, `${position(birth)}id: ${a}\ndata: 1\n\n${tail}`)
  t.not(birth, a)
  await isBody(t, await follow({ path: '/?replay=2' }), `${position(a)}${tail}`)
  await isBody(t, await follow({ path: '/?replay=50' }), `${position(birth)}id: ${a}\ndata: 1\n\n${tail}`)
  await isBody(t, await follow({ path: '/?replay=all', headers: [`Last-Event-ID: ${b}`] }), `${position(b)}id: ${c}\ndata: 3\n\n`)
})

async function replayServer (t: Test) {
  const server = await serve(t, (request, reply) => {
    const { replay } = request.query as { replay: string }
    return reply.sse(server.app.streaming.channel('news'), { replay: replay === 'all' ? 'all' : Number(replay) })
  })
  return {
    news: server.app.streaming.channel('news'),
    follow: async (request: RawRequest) => {
      const client = open(t, server.port, request)
      await client.until('event: position')
      return client
    }
  }
}

t.test('a gap stands in place of the position: its bytes, and that a resume from it has none', async t => {
  const { news, follow, app } = await channelServer(t, { history: { events: 2 } })
  const [a, b, c, d] = [await news.publish('1'), await news.publish('2'), await news.publish('3'), await news.publish('4')]
  const client = await follow({ headers: [`Last-Event-ID: ${a}`] })
  const rest = `id: ${c}\ndata: 3\n\nid: ${d}\ndata: 4\n\n`
  await isBody(t, client, `event: gap\nid: ${b}\ndata: {"reason":"trimmed","channel":"news","after":"${a}"}\n\n${rest}`)
  await isBody(t, await follow({ headers: [`Last-Event-ID: ${b}`] }), `${position(b)}${rest}`)
  t.equal(app.streaming.stats().gaps, 1)
})

t.test('whatever a client brings that is no position is one gap, with an id to go on from, and never an error', async t => {
  const server = await channelServer(t)
  const { news, sport, follow } = server
  const id = await news.publish('1')
  const foreign = await sport.publish('x')
  const nonce = id.slice(id.indexOf('-'), id.indexOf('.'))
  const headers = [
    'nonsense', '0', '-', '+', '$', '*', '.', ',', 'live', 'earliest', 'live.Gfug6Z', 'earliest.Gfug6Z', '1-000000000000.Gfug6Z', foreign, `${id},`.slice(1),
    'x'.repeat(1025), 'x'.repeat(8_000), 'é', 'fastify-streaming:end', '../../etc/passwd', "' OR 1=1 --", '\t-'
  ]
  const queries = ['%00', '%0A', '%', '%FF', encodeURIComponent('\ud83d\ude00'), 'x'.repeat(10_000), '1%2C2']
  const requests = [...headers.map(id => ({ headers: [`Last-Event-ID: ${Buffer.from(id).toString('latin1')}`] })), ...queries.map(id => ({ path: `/?lastEventId=${id}` }))]
  for (const request of requests) {
    const client = await follow(request)
    t.match(client.received, /^HTTP\/1\.1 200 /)
    await client.until('data: 1\n\n')
    t.match(bodyOf(client), /^event: gap\nid: [0-9a-z]+-[0-9a-f]{12}\.Gfug6Z\ndata: \{"reason":"unknown","channel":"news","after":(null|"[0-9A-Za-z.-]+")\}\n\nid: \S+\ndata: 1\n\n$/)
    const [, base] = /id: (\S+)/.exec(bodyOf(client)) as unknown as [string, string]
    const again = await follow({ headers: [`Last-Event-ID: ${base}`] })
    await isBody(t, again, `${position(base)}id: ${id}\ndata: 1\n\n`)
    client.destroy()
    again.destroy()
  }
  // One that is still to come: what is retained is older than it.
  const future = await follow({ headers: [`Last-Event-ID: zzzzz${nonce}.Gfug6Z`] })
  t.equal(bodyOf(future), `event: gap\nid: ${id}\ndata: {"reason":"unknown","channel":"news","after":"zzzzz${nonce}.Gfug6Z"}\n\n`)
  t.same(troubles(server), [])
})

t.test('an id of before a restart is a gap that names it', async t => {
  const before = await channelServer(t)
  const old = await before.news.publish('1')
  await before.app.close()
  const { news, follow } = await channelServer(t)
  const id = await news.publish('2')
  const client = await follow({ headers: [`Last-Event-ID: ${old}`] })
  await client.until('data: 2\n\n')
  t.match(bodyOf(client), new RegExp(`^event: gap\\nid: \\S+\\ndata: {"reason":"unknown","channel":"news","after":"${old}"}\\n\\nid: ${id}\\ndata: 2\\n\\n$`))
})

t.test('the head comes at once, also when the broker does not answer; retry is sent before', async t => {
  const inner = memoryBroker()
  let isDown = true
  const broker: Broker = {
    publish: async (...args) => await inner.publish(...args),
    read: async (...args) => await inner.read(...args),
    tail: async (...args) => {
      if (isDown) throw new Error('down')
      return await inner.tail(...args)
    },
    compare: (...args) => inner.compare(...args),
    valid: id => inner.valid(id),
    ready: async () => {},
    close: async () => {}
  }
  const { news, port } = await channelServer(t, { streaming: { broker, retry: 1234 } })
  const client = open(t, port)
  await client.until('retry: 1234\n')
  isDown = false
  await client.until('event: position')
  const id = await news.publish('1')
  await client.until(`id: ${id}\ndata: 1\n\n`)
  t.match(bodyOf(client), /^retry: 1234\nevent: position\nid: \S+\ndata: \{\}\n\nid: \S+\ndata: 1\n\n$/)
})

t.test('events that are published in one turn leave in one write', async t => {
  const { news, follow } = await channelServer(t)
  const before = await news.publish('before')
  const client = await follow()
  const ids = [news.publish('1'), news.publish('2')]
  ids.push(news.publish('3'))
  await ids[2]
  ids.push(news.publish('4'))
  const [a, b, c, d] = await Promise.all(ids)
  await client.until('data: 4\n\n')
  news.close()
  await client.end()
  t.same(chunksOf(client.received), [
    position(before),
    `id: ${a}\ndata: 1\n\nid: ${b}\ndata: 2\n\nid: ${c}\ndata: 3\n\nid: ${d}\ndata: 4\n\n`,
    ''
  ])
})

t.test('an event is serialised once and framed once, and all get the same bytes', async t => {
  const responses: unknown[][] = []
  const { news, follow } = await channelServer(t, {
    source: (channel, request, reply) => {
      const written: unknown[] = []
      responses.push(written)
      const write = reply.raw.write.bind(reply.raw) as (...args: unknown[]) => boolean
      reply.raw.write = ((...args: unknown[]) => { written.push(args[0]); return write(...args) }) as never
      return channel('news')
    }
  })
  const clients = []
  for (let i = 0; i < 20; i++) clients.push(await follow())
  let calls = 0
  const made = t.capture(Buffer, 'from', Buffer.from)
  const id = await news.publish({ data: { toJSON () { calls++; return 'framed' } } })
  for (const client of clients) await client.until('data: "framed"\n\n')
  const framed = made().filter(({ args }) => String(args[0]).includes('data: "framed"') && typeof args[0] === 'string')
  made.restore()
  t.equal(calls, 1)
  t.same(framed.map(({ args }) => args[0]), [`id: ${id}\ndata: "framed"\n\n`])
  t.equal(new Set(responses.map(written => written.at(-1))).size, 1)
  t.equal(responses.length, 20)
})

t.test('HEAD gets the head and subscribes nobody', async t => {
  const { news, port, outcome } = await channelServer(t)
  const { head, body } = await fetchRaw(t, port, { method: 'HEAD' })
  t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(head, /content-type: text\/event-stream/)
  t.equal(body, '')
  t.equal(news.size, 0)
  t.match(await outcome(), { reason: 'completed', events: 0 })
})

t.test('HTTP/1.0 and inject() with payloadAsStream get channels, too', async t => {
  const { news, app, follow } = await channelServer(t)
  const before = await news.publish('before')
  const client = await follow({ version: '1.0' })
  t.ok(client.received.endsWith(`\r\n\r\n${position(before)}`), client.received)
  const response = await app.inject({ url: '/', payloadAsStream: true })
  const chunks: string[] = []
  response.stream().on('data', chunk => { chunks.push(String(chunk)) })
  await eventually(() => chunks.join('') === position(before))
  const id = await news.publish('1')
  await eventually(() => chunks.join('') === `${position(before)}id: ${id}\ndata: 1\n\n`)
  await client.until('data: 1\n\n')
})

t.test('the outcome counts events, not what the channel itself says, and the bytes', async t => {
  const { news, follow, outcome, logged, app } = await channelServer(t)
  const before = await news.publish('before')
  const client = await follow()
  const id = await news.publish('1')
  const body = `${position(before)}id: ${id}\ndata: 1\n\n`
  await isBody(t, client, body)
  t.match(app.streaming.stats(), { open: 1, events: 1, bytes: body.length, subscribers: 1 })
  client.destroy()
  t.match(await outcome(), { reason: 'disconnected', events: 1, bytes: body.length })
  t.match(await logged('stream closed'), { level: 30, stream: { kind: 'sse', reason: 'disconnected', events: 1 } })
  t.equal(news.size, 0)
})

t.test('close({ retry }) ends the streams of a channel with that reconnection time', async t => {
  const { news, follow, outcome, logged, channel } = await channelServer(t)
  const before = await news.publish('before')
  const clients = [await follow(), await follow()]
  news.close({ retry: 4000 })
  for (const client of clients) {
    await client.end()
    t.equal(bodyOf(client), `${position(before)}retry: 4000\n`)
  }
  t.match(await outcome(1), { reason: 'closed', events: 0 })
  t.match(await logged('stream closed'), { level: 30 })
  const again = await follow({ headers: [`Last-Event-ID: ${before}`] })
  const id = await channel('news').publish('again')
  await isBody(t, again, `${position(before)}id: ${id}\ndata: again\n\n`)
})

t.test('close({ retry: [min, max] }) gives each stream a time of its own, close() none', async t => {
  const { news, follow, channel } = await channelServer(t)
  const clients = [await follow(), await follow(), await follow()]
  let random = 0
  const captured = t.capture(Math, 'random', () => { random += 0.25; return random })
  news.close({ retry: [1000, 2000] })
  captured.restore()
  for (const [i, client] of clients.entries()) t.match(await client.end(), `retry: ${[1250, 1500, 1750][i]}\n`)
  const client = await follow()
  channel('news').close()
  t.notMatch(await client.end(), 'retry:')
})

t.test('app.close() ends streams of channels as all others', async t => {
  const { app, follow, outcome } = await channelServer(t, { streaming: { shutdown: { retry: 3000 } } })
  const client = await follow()
  await app.close()
  await client.end()
  t.ok(bodyOf(client).endsWith('data: {}\n\nretry: 3000\n'))
  t.match(await outcome(), { reason: 'shutdown' })
})

t.test('a channel that is closed is refused before the head, with FST_STREAM_CLOSED', async t => {
  const closed: Channel[] = []
  const server = await channelServer(t, { source: () => closed[0] })
  closed.push(server.news)
  server.news.close()
  const { head, body } = await fetchRaw(t, server.port)
  t.match(head, /^HTTP\/1\.1 503 /)
  t.match(JSON.parse(body), { code: 'FST_STREAM_CLOSED', message: "The channel 'news' is closed" })
  t.match(await server.outcome(), { reason: 'failed', error: { code: 'FST_STREAM_CLOSED' } })
})

t.test('one closed channel among several refuses all, and follows none of them', async t => {
  const closed: Channel[] = []
  const server = await channelServer(t, { source: channel => [channel('news'), ...closed] })
  closed.push(server.sport)
  server.sport.close()
  const { body } = await fetchRaw(t, server.port)
  t.match(JSON.parse(body), { code: 'FST_STREAM_CLOSED' })
  t.equal(server.news.size, 0)
})

t.test('an array of channels is one stream: its ids have a part for each channel', async t => {
  const { news, sport, follow } = await channelServer(t, { source: channel => [channel('news'), channel('sport')] })
  const n0 = await news.publish('before')
  const s0 = await sport.publish('before')
  const client = await follow()
  const n1 = await news.publish('n1')
  await client.until('data: n1')
  const s1 = await sport.publish('s1')
  await isBody(t, client,
    position(`${n0},${s0}`) +
    `id: ${n1},${s0}\ndata: n1\n\n` +
    `id: ${n1},${s1}\ndata: s1\n\n`)
  await isBody(t, await follow({ headers: [`Last-Event-ID: ${n1},${s0}`] }), `${position(`${n1},${s0}`)}id: ${n1},${s1}\ndata: s1\n\n`)
  await isBody(t, await follow({ headers: [`Last-Event-ID: ${s1},${n1}`] }), position(`${n1},${s1}`))
})

t.test('a channel that comes twice in an array is followed once; an array of one is that channel', async t => {
  const { news, follow } = await channelServer(t, { source: channel => [channel('news'), channel('news'), channel('news')] })
  const before = await news.publish('before')
  const client = await follow()
  t.equal(news.size, 1)
  const id = await news.publish('1')
  await isBody(t, client, `${position(before)}id: ${id}\ndata: 1\n\n`)
})

t.test('one position in a list of two is a gap of the other; the gaps of several name their channels', async t => {
  const { news, sport, follow } = await channelServer(t, { source: channel => [channel('news'), channel('sport')], history: { events: 1 } })
  const s0 = await sport.publish('s0')
  const n0 = await news.publish('n0')
  const one = await follow({ headers: [`Last-Event-ID: ${n0}`] })
  await one.until('data: s0')
  const [, birth] = /,(\S+)\n/.exec(bodyOf(one)) as unknown as [string, string]
  await isBody(t, one, `event: gap\nid: ${n0},${birth}\ndata: {"reason":"unknown","channel":"sport","after":null}\n\nid: ${n0},${s0}\ndata: s0\n\n`)
  const n1 = await news.publish('n1')
  const n2 = await news.publish('n2')
  one.destroy()
  const both = await follow({ headers: [`Last-Event-ID: ${n0},1-000000000000.7EUHhu`] })
  await both.until('data: s0')
  t.equal(bodyOf(both).replace(/id: \S+\ndata: (n2|s0)\n\n/g, ''),
    // Until it is told of its gap, a channel keeps the part that the client has.
    `event: gap\nid: ${n1},1-000000000000.7EUHhu\ndata: {"reason":"trimmed","channel":"news","after":"${n0}"}\n\n` +
    `event: gap\nid: ${n1},${birth}\ndata: {"reason":"unknown","channel":"sport","after":"1-000000000000.7EUHhu"}\n\n`)
  t.match(bodyOf(both), `id: ${n2},${birth}\ndata: n2\n\n`)
})

t.test('seventeen channels are refused, sixteen are not', async t => {
  const { port, follow } = await channelServer(t, {
    source: (channel, request) => Array.from({ length: Number((request.query as { count: string }).count) }, (_, i) => channel(`c${i}`))
  })
  const client = await follow({ path: '/?count=16' })
  t.equal(/id: (\S+)/.exec(bodyOf(client))?.[1]?.split(',').length, 16)
  const { head, body } = await fetchRaw(t, port, { path: '/?count=17' })
  t.match(head, /^HTTP\/1\.1 500 /)
  t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: "The source must be at most 16 channels, got '17 channels'" })
})

t.test('an array of channels and something else is refused', async t => {
  for (const other of ['event', { data: 'x' }, null, 42]) {
    const { port, news } = await channelServer(t, { source: channel => [channel('news'), other] })
    const { body } = await fetchRaw(t, port)
    t.match(JSON.parse(body), { statusCode: 500, code: 'FST_STREAM_INVALID_SOURCE', message: /^The source must be an array of channels only, got '/ })
    t.equal(news.size, 0)
  }
})

t.test('an array of channels and undefined is refused as well', async t => {
  const { port } = await channelServer(t, { source: channel => [channel('news'), undefined] })
  const { body } = await fetchRaw(t, port)
  t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_SOURCE', message: "The source must be an array of channels only, got 'undefined'" })
})

t.test('an empty array is a source without events', async t => {
  const { port, outcome } = await channelServer(t, { source: () => [] })
  t.equal((await fetchRaw(t, port)).body, '')
  t.match(await outcome(), { reason: 'completed', events: 0 })
})

t.test('replay, filter and lag without a channel are FST_STREAM_INVALID_OPTION, before the head', async t => {
  for (const [name, value] of [['replay', 'all'], ['replay', 1], ['filter', () => true], ['lag', 'latest']] as const) {
    for (const source of [['event'], (async function * () {})(), new Response('', { headers: { 'content-type': 'text/event-stream' } }), async () => ['event']]) {
      const { port } = await channelServer(t, { source: () => source, call: { [name]: value } })
      const { body } = await fetchRaw(t, port)
      t.match(JSON.parse(body), { statusCode: 500, code: 'FST_STREAM_INVALID_OPTION', message: new RegExp(`^Option '${name}' must be absent: it is for channels only, got '`) })
    }
  }
})

t.test('replay, filter and lag without a source are FST_STREAM_INVALID_OPTION, before the head', async t => {
  for (const options of [{ replay: 'all' }, { filter: () => true }, { lag: 'gap' }] as EventStreamOptions[]) {
    const { app } = await serve(t, async (request, reply) => { (await reply.sse(options)).close() })
    const { statusCode, body } = await app.inject('/')
    t.equal(statusCode, 500)
    t.match(body, /"code":"FST_STREAM_INVALID_OPTION"/)
  }
})

t.test('wrong values of replay, filter and lag are refused before the head', async t => {
  for (const call of [{ replay: 0 }, { replay: 'some' }, { replay: -1 }, { filter: 'odd' }, { lag: 'drop' }] as unknown as EventStreamOptions[]) {
    const { port, news } = await channelServer(t, { call })
    t.match(JSON.parse((await fetchRaw(t, port)).body), { code: 'FST_STREAM_INVALID_OPTION' })
    t.equal(news.size, 0)
  }
})

t.test('replay, filter and lag are no options of the plugin', async t => {
  for (const streaming of [{ replay: 'all' }, { filter: () => true }, { lag: 'gap' }]) {
    await t.rejects(channelServer(t, { streaming: streaming as never }), { code: 'FST_STREAM_INVALID_OPTION' })
  }
})

t.test('a function may return a channel or several, or resolve with them, with options for channels', async t => {
  const server = await serve(t, (request, reply) => {
    const { streaming } = server.app
    const [news, sport] = [streaming.channel('news'), streaming.channel('sport')]
    const { as } = request.query as { as: string }
    if (as === 'returned') return reply.sse(() => news, { replay: 'all' })
    if (as === 'resolved') return reply.sse(async () => news, { replay: 'all' })
    return reply.sse(async stream => {
      await stream.send('mine')
      return [news, sport]
    }, { replay: 'all' })
  })
  const news = server.app.streaming.channel('news')
  const id = await news.publish('1')
  for (const as of ['returned', 'resolved']) {
    const client = open(t, server.port, { path: `/?as=${as}` })
    await client.until('data: 1\n\n')
    t.match(bodyOf(client), new RegExp(`^event: position\\nid: \\S+\\ndata: {}\\n\\nid: ${id}\\ndata: 1\\n\\n$`))
    client.destroy()
  }
  const client = open(t, server.port, { path: '/?as=several' })
  await client.until('data: 1\n\n')
  t.match(bodyOf(client), new RegExp(`^data: mine\\n\\nevent: position\\nid: \\S+,\\S+\\ndata: {}\\n\\nid: ${id},\\S+\\ndata: 1\\n\\n$`))
})

t.test('a channel that a function resolves with after the client has left is not followed', async t => {
  let resolve!: (channel: Channel) => void
  const { news, port, outcome } = await channelServer(t, { source: () => () => new Promise<Channel>(_resolve => { resolve = _resolve }) })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.destroy()
  await outcome()
  resolve(news)
  await turn(3)
  t.equal(news.size, 0)
})

t.test('a closed channel that a function resolves with, after the head, fails the stream', async t => {
  let resolve!: (channel: Channel) => void
  const { news, port, outcome } = await channelServer(t, { source: () => () => new Promise<Channel>(_resolve => { resolve = _resolve }) })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  news.close()
  resolve(news)
  await client.end()
  t.equal(bodyOf(client), 'event: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
  t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_CLOSED' } })
})

t.test('a hook that fails, and a client that leaves before anything, leave no subscriber behind', async t => {
  const { news, port, outcome } = await channelServer(t, {}, {
    before: app => { app.addHook('onSend', async request => { if (request.url === '/?fail') throw new Error('mine') }) }
  })
  t.match((await fetchRaw(t, port, { path: '/?fail' })).head, /^HTTP\/1\.1 500 /)
  t.match(await outcome(), { reason: 'failed' })
  await eventually(() => news.size === 0)
  await news.publish('1')
  t.match((await fetchRaw(t, port, { path: '/?fail' })).head, /^HTTP\/1\.1 500 /)
  await outcome(1)
  t.equal(news.size, 0)
})

t.test('a filter that throws, or a hook that fails, on the first event that is at hand leaves no subscriber behind', async t => {
  let isLast = false
  const filter = () => { throw new Error('mine') }
  const { news, follow, port, app } = await channelServer(t, {}, {
    before: app => {
      app.addHook('onSend', (request, _reply, _payload, done) => {
        if (request.url === '/?fail') done(new Error('mine'))
        else done()
      })
      app.get('/filtered', (_request, reply) => reply.sse(news, { filter, heartbeat: isLast ? 0 : 1000 }))
    }
  })
  const warm = await follow()
  await warm.until('event: position')
  const id = await news.publish('1')
  await news.publish('2')
  await warm.until('data: 2')
  for (isLast of [false, true]) await fetchRaw(t, port, { path: '/filtered', headers: [`Last-Event-ID: ${id}`] })
  for (const headers of [[], [`Last-Event-ID: ${id}`]]) t.match((await fetchRaw(t, port, { path: '/?fail', headers })).head, /^HTTP\/1\.1 500 /)
  await eventually(() => app.streaming.open === 1)
  t.equal(news.size, 1)
})

t.test('a hook that pipes the payload where nothing leaves holds it back, as it does the events of any source', async t => {
  let stream: EventStream | undefined
  const { news, port } = await channelServer(t, { source: () => async (_stream: EventStream) => { stream = _stream; return news } }, {
    before: app => {
      app.addHook('onSend', async (_request, _reply, payload) => (payload as Readable).pipe(new Transform({ transform () {} })))
    }
  })
  open(t, port)
  await eventually(() => stream !== undefined && news.size === 1)
  for (let i = 0; i < 100; i++) {
    await news.publish('x'.repeat(20_000))
    await turn()
  }
  t.ok((stream?.bufferedBytes as number) < 200_000, `${stream?.bufferedBytes} bytes`)
})

t.test('signal ends a stream of channels, which is then no subscriber', async t => {
  const controller = new AbortController()
  const { news, follow, outcome } = await channelServer(t, { call: { signal: controller.signal } })
  const client = await follow()
  controller.abort(new Error('mine'))
  await client.end()
  t.match(await outcome(), { reason: 'aborted', error: { message: 'mine' } })
  t.equal(news.size, 0)
})

t.test('reconnect: false tells the clients of a closed channel to stop', async t => {
  const { news, follow, port } = await channelServer(t, { call: { reconnect: false } })
  const before = await news.publish('before')
  const client = await follow()
  news.close({ retry: 1000 })
  await client.end()
  t.equal(bodyOf(client), `${position(before)}retry: 1000\nevent: end\nid: fastify-streaming:end\ndata: {}\n\n`)
  t.match((await fetchRaw(t, port, { headers: ['Last-Event-ID: fastify-streaming:end'] })).head, /^HTTP\/1\.1 204 /)
})

t.test('a filter gets the event and the request, and chooses', async t => {
  const seen: unknown[] = []
  const { news, follow } = await channelServer(t, {
    call: {
      filter ({ json, ...event }, request) {
        seen.push({ ...event, query: request.query })
        return event.data !== '"no"'
      }
    }
  })
  const before = await news.publish('before')
  const client = await follow({ path: '/?user=1' })
  const a = await news.publish({ event: 'e', data: 'yes' }, { key: 'k' })
  const b = await news.publish({ data: Buffer.from('"no"') })
  const c = await news.publish({ data: ['yes'] })
  await isBody(t, client, `${position(before)}id: ${a}\nevent: e\ndata: yes\n\nid: ${c}\ndata: ["yes"]\n\n`)
  t.same(seen, [
    { type: 'event', id: a, event: 'e', key: 'k', data: 'yes', query: { user: '1' } },
    { type: 'event', id: b, event: 'message', key: undefined, data: '"no"', query: { user: '1' } },
    { type: 'event', id: c, event: 'message', key: undefined, data: '["yes"]', query: { user: '1' } }
  ])
})

t.test('json() in filters parses an event once for all', async t => {
  const { news, follow } = await channelServer(t, { call: { filter: event => (event.json() as { for: string }).for === 'all' } })
  const clients = [await follow(), await follow(), await follow()]
  const parsed = t.capture(JSON, 'parse', JSON.parse)
  await news.publish({ data: { for: 'none' } })
  await news.publish({ data: { for: 'all' } })
  for (const client of clients) await client.until('data: {"for":"all"}\n\n')
  t.same(parsed().map(({ args }) => args[0]).filter(text => text.startsWith('{"for"')), ['{"for":"none"}', '{"for":"all"}'])
  parsed.restore()
  t.notMatch(clients[0]?.received, 'none')
})

t.test('a filter that throws ends that stream, after what passed before, and no other', async t => {
  let count = 0
  const { news, follow, outcome, logged, app } = await channelServer(t, {
    call: {
      filter ({ data }, request) {
        count++
        if (data === '2' && request.url === '/?throw') throw Object.assign(new Error('mine'), { statusCode: 403, code: 'MINE' })
        return true
      }
    }
  })
  const before = await news.publish('before')
  const [bad, good] = [await follow({ path: '/?throw' }), await follow()]
  const [a, b, c] = await Promise.all(['1', '2', '3'].map(data => news.publish(data)))
  await bad.end()
  t.equal(bodyOf(bad), `${position(before)}id: ${a}\ndata: 1\n\nevent: error\ndata: {"code":"MINE","message":"mine"}\n\n`)
  t.match(await outcome(), { reason: 'failed', events: 1, error: { message: 'mine' } })
  t.match(await logged('stream closed'), { level: 40, err: { message: 'mine' } })
  await isBody(t, good, `${position(before)}id: ${a}\ndata: 1\n\nid: ${b}\ndata: 2\n\nid: ${c}\ndata: 3\n\n`)
  t.equal(news.size, 1)
  t.equal(count, 5)
  t.equal(app.streaming.open, 1)
})

t.test('an async filter is refused, and its rejection cannot kill the process', async t => {
  const { news, follow, outcome } = await channelServer(t, { call: { filter: (async () => { throw new Error('mine') }) as never } })
  const client = await follow()
  await news.publish('1')
  await client.end()
  t.ok(bodyOf(client).endsWith('event: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n'))
  t.match(await outcome(), { reason: 'failed', events: 0, error: { code: 'FST_STREAM_INVALID_OPTION' } })
})

t.test('a filter may end its own stream', async t => {
  const { news, follow, app, outcome } = await channelServer(t, {
    call: { filter: ({ data }) => { if (data === '2') app.streaming.channel('news').close(); return true } }
  })
  const before = await news.publish('before')
  const client = await follow()
  await Promise.all(['1', '2', '3'].map(data => news.publish(data)))
  await client.end()
  t.ok(bodyOf(client).startsWith(position(before)))
  t.notMatch(bodyOf(client), 'data: 2')
  t.notMatch(bodyOf(client), 'data: 3')
  t.match(await outcome(), { reason: 'closed' })
})

t.test('what a filter leaves out moves the position of the client, in place of the heartbeat', async t => {
  const { news, follow } = await channelServer(t, { streaming: { heartbeat: 1000 }, call: { filter: ({ data }) => data !== 'no' } })
  const before = await news.publish('before')
  const clock = fakeClock(t)
  const client = await follow()
  await clock.tickAsync(1500)
  await isBody(t, client, `${position(before)}:\n`)
  await news.publish('no')
  const b = await news.publish('no')
  await turn(3)
  await clock.tickAsync(1500)
  await isBody(t, client, `${position(before)}:\n${position(b)}`)
  await clock.tickAsync(1500)
  await isBody(t, client, `${position(before)}:\n${position(b)}:\n`)
  await news.publish('no')
  const d = await news.publish('yes')
  await turn(3)
  await clock.tickAsync(1500)
  await isBody(t, client, `${position(before)}:\n${position(b)}:\nid: ${d}\ndata: yes\n\n:\n`)
})

t.test('with heartbeats off, a filtered stream tells its position every 15 seconds when it has moved, and nothing else', async t => {
  const { news, follow } = await channelServer(t, { streaming: { heartbeat: 0 }, call: { filter: ({ data }) => data !== 'no' } })
  const before = await news.publish('before')
  const clock = fakeClock(t)
  const client = await follow()
  await clock.tickAsync(60_000)
  await turn(3)
  const a = await news.publish('no')
  await turn(3)
  await clock.tickAsync(22_500)
  await isBody(t, client, `${position(before)}${position(a)}`)
  await clock.tickAsync(60_000)
  const b = await news.publish('yes')
  await isBody(t, client, `${position(before)}${position(a)}id: ${b}\ndata: yes\n\n`)
})

t.test('with heartbeats off, a stream without a filter has no timer', async t => {
  const { news, follow } = await channelServer(t, { streaming: { heartbeat: 0 } })
  const before = await news.publish('before')
  const clock = fakeClock(t)
  const client = await follow()
  await clock.tickAsync(120_000)
  const id = await news.publish('1')
  await isBody(t, client, `${position(before)}id: ${id}\ndata: 1\n\n`)
})

t.test('with heartbeats off, the position is told also when a function has resolved with the channel after the head', async t => {
  const { news, follow } = await channelServer(t, {
    streaming: { heartbeat: 0 },
    source: channel => async () => {
      await turn(5)
      return channel('news')
    },
    call: { filter: () => false }
  })
  const before = await news.publish('before')
  const clock = fakeClock(t)
  const client = await follow()
  const id = await news.publish('no')
  await turn(3)
  await clock.tickAsync(22_500)
  await isBody(t, client, `${position(before)}${position(id)}`)
})

t.test('a filter on several channels: a checkpoint has the places of all', async t => {
  const { news, sport, follow } = await channelServer(t, {
    streaming: { heartbeat: 1000 },
    source: channel => [channel('news'), channel('sport')],
    call: { filter: () => false }
  })
  await news.publish('before')
  await sport.publish('before')
  const clock = fakeClock(t)
  const client = await follow()
  const before = bodyOf(client)
  const n = await news.publish('no')
  const s = await sport.publish('no')
  await turn(3)
  await clock.tickAsync(1500)
  await isBody(t, client, `${before}${position(`${n},${s}`)}`)
})

/** Publishes until a client that reads nothing has fallen out of the history. */
async function outrun (news: Channel, count = 400): Promise<string[]> {
  const ids = []
  for (let i = 0; i < count; i++) {
    ids.push(await news.publish(`${i} ${'x'.repeat(100_000)}`, { key: `k${i % 2}` }))
    await turn()
  }
  return ids
}

t.test("lag 'gap': a slow client is told what it has lost, goes on, and is in nobody's way", async t => {
  const messages: unknown[] = []
  const listen = (message: unknown) => { messages.push(message) }
  diagnosticsChannel.subscribe('fastify-streaming:gap', listen)
  t.teardown(() => diagnosticsChannel.unsubscribe('fastify-streaming:gap', listen))
  const { news, follow, app, outcomes } = await channelServer(t, { history: { events: 3 }, call: { writeTimeout: 0 } })
  const [slow, fast] = [await follow(), await follow({ path: '/?fast' })]
  slow.socket.pause()
  const ids = await outrun(news)
  const last = await news.publish('last')
  await fast.until(`id: ${last}\ndata: last\n\n`)
  t.equal(bodyOf(fast).match(/^id: /gm)?.length, 402)
  slow.socket.resume()
  await slow.until('data: last\n\n')
  const body = bodyOf(slow)
  const [, base, after] = /event: gap\nid: (\S+)\ndata: \{"reason":"slow","channel":"news","after":"(\S+)"\}\n\n/.exec(body) as unknown as [string, string, string]
  t.equal(base, ids.at(-3))
  const told = ids.slice(0, ids.indexOf(after) + 1)
  t.same([...body.matchAll(/^id: (\S+)\ndata: (?!\{)/gm)].map(([, id]) => id), [...told, ids.at(-2), ids.at(-1), last])
  t.equal(body.match(/event: gap/g)?.length, 1)
  t.equal(app.streaming.stats().gaps, 1)
  t.match(messages, [{ channel: 'news', reason: 'slow', after, request: { url: '/' } }])
  t.same(outcomes, [])
})

t.test("lag 'disconnect': a slow client is disconnected (lagged, logged at warn), and resumes", async t => {
  const server = await channelServer(t, { history: { events: 3 }, call: { lag: 'disconnect', writeTimeout: 0 } })
  const { news, follow, outcome, logged } = server
  const client = await follow()
  client.socket.pause()
  await outrun(news)
  client.socket.resume()
  await client.end()
  const { events } = await outcome()
  t.match(await outcome(), { reason: 'lagged' })
  t.match(await logged('stream closed'), { level: 40, stream: { reason: 'lagged', events } })
  t.equal(server.app.streaming.stats().closed.lagged, 1)
  t.notMatch(bodyOf(client), 'event: gap')
  t.ok(bodyOf(client).endsWith('x\n\n'))
  const last = [...bodyOf(client).matchAll(/^id: (\S+)$/gm)].at(-1)?.[1] as string
  const again = await follow({ headers: [`Last-Event-ID: ${last}`] })
  t.match(bodyOf(again), new RegExp(`^event: gap\\nid: \\S+\\ndata: {"reason":"trimmed","channel":"news","after":"${last}"}\\n\\n`))
})

t.test("lag 'latest': a slow client gets the newest event of each key, and no gap", async t => {
  const { news, follow, app } = await channelServer(t, { history: { events: 10 }, call: { lag: 'latest', writeTimeout: 0 } })
  const client = await follow()
  client.socket.pause()
  const ids = await outrun(news)
  client.socket.resume()
  await client.until(`id: ${ids.at(-1)}`)
  const id = await news.publish('live', { key: 'k0' })
  await client.until(`id: ${id}\ndata: live\n\n`)
  t.notMatch(bodyOf(client), 'event: gap')
  t.equal(app.streaming.stats().gaps, 0)
  const given = [...bodyOf(client).matchAll(/^id: (\S+)\ndata: (?!\{)/gm)].map(([, id]) => id as string)
  t.same(given.slice(-3), [ids.at(-2), ids.at(-1), id])
  t.ok(given.length < 400)
})

t.test('a thousand events that are published in one turn reach those who have room, whatever the history', async t => {
  const { news, follow } = await channelServer(t, { history: { events: 10 } })
  const client = await follow()
  const publishing = Array.from({ length: 1500 }, (_, i) => news.publish(`${i}`))
  await Promise.all(publishing)
  await client.until('data: 1499\n\n')
  t.same([...bodyOf(client).matchAll(/^data: (\d+)$/gm)].map(([, data]) => Number(data)), Array.from({ length: 1500 }, (_, i) => i))
})

t.test('over HTTP/2 what is published later arrives as well', async t => {
  const { url, app } = await serve(t, (request, reply) => reply.sse(request.server.streaming.channel('news')), { fastify: { http2: true } as object })
  const session = http2.connect(url)
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/' })
  let body = ''
  stream.setEncoding('utf8').on('data', chunk => { body += chunk })
  await eventually(() => body.includes('event: position'))
  await app.streaming.channel('news').publish('later')
  await eventually(() => body.endsWith('data: later\n\n'))
  t.equal(app.streaming.stats().subscribers, 1)
})

t.test('a stream that waits behind a pipelined reply gets what is published meanwhile, once that is whole', async t => {
  const first = deferred()
  const { port, app } = await serve(t, (request, reply) => reply.sse(request.server.streaming.channel('news')), {}, app => {
    app.get('/first', async () => { await first.promise; return 'first' })
  })
  const client = connect(t, port)
  client.write(requestText({ path: '/first', headers: ['Connection: keep-alive'] }) + requestText())
  await eventually(() => app.streaming.channel('news').size === 1)
  await turn(3)
  await app.streaming.channel('news').publish('meanwhile')
  await turn(3)
  t.equal(client.received, '')
  first.resolve()
  await client.until('data: meanwhile\n\n')
})

t.test('a burst in one turn that is longer than the history reaches a client that reads, whole', async t => {
  for (const [count, bytes, events] of [[300, 1000, 1], [700, 100, 64], [1000, 100, 256]] as const) {
    const { news, follow } = await channelServer(t, { history: { events } })
    const client = await follow()
    await client.until('event: position')
    const ids = await Promise.all(Array.from({ length: count }, (_, i) => news.publish(`${i} ${'x'.repeat(bytes)}`)))
    await client.until(`\ndata: ${count - 1} `)
    t.same([...bodyOf(client).matchAll(/id: (\S+)\ndata: \d/g)].map(([, id]) => id), ids)
    t.notMatch(bodyOf(client), 'event: gap')
  }
})

t.test('a filter that throws while lag latest chooses ends its stream, and no other', async t => {
  let isAngry = false
  const filter = () => { if (isAngry) throw new Error('mine'); return true }
  const { news, follow, outcome } = await channelServer(t, { history: { events: 10 }, call: { lag: 'latest', filter } })
  const client = await follow()
  client.socket.pause()
  for (let i = 0; news.size === 1 && i < 200; i++) {
    await news.publish('x'.repeat(100_000), { key: 'k' })
    await turn()
  }
  isAngry = true
  client.socket.resume()
  t.match(await outcome(), { reason: 'failed', error: { message: 'mine' } })
  t.equal(news.size, 0)
})
