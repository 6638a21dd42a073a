import '../fixtures/guard.ts'
import v8 from 'node:v8'
import vm from 'node:vm'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import { Channels } from '../../lib/channel/channels.ts'
import { FST_STREAM_BROKER_UNAVAILABLE } from '../../lib/errors.ts'
import { eventually, fakeClock, settles, turn } from '../fixtures/clock.ts'
import { open } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'
import streaming, { memoryBroker, type Broker, type Channel, type ChannelItem, type ChannelOptions, type StreamingOptions } from '../../lib/index.ts'

/** `app.streaming` of an app that need not listen. */
async function start (t: Test, options: StreamingOptions = {}) {
  const app = Fastify()
  await app.register(streaming, options)
  t.teardown(() => app.close())
  await app.ready()
  return app.streaming
}

/** The next `count` items. */
async function take (iterator: AsyncIterator<ChannelItem>, count: number): Promise<any[]> {
  const items = []
  for (let i = 0; i < count; i++) {
    const result = await iterator.next()
    if (result.done !== true) items.push(result.value)
  }
  return items
}

/** The data of everything that is retained. */
async function replayed (channel: Channel): Promise<string[]> {
  await channel.publish('the end')
  const data: string[] = []
  for await (const item of channel.subscribe({ replay: 'all' })) {
    if (item.type !== 'event') continue
    if (item.data === 'the end') break
    data.push(item.data)
  }
  return data
}

t.test('the same name gives the same channel', async t => {
  const { channel } = await start(t)
  const news = channel('news', { history: { events: 10 } })
  t.equal(news.name, 'news')
  t.equal(channel('news'), news)
  t.equal(channel('news', {}), news)
  t.equal(channel('news', { history: { events: 10 } }), news)
  t.equal(channel('news', { history: { bytes: 1_048_576, age: 300_000 } }), news, 'its defaults')
  t.not(channel('News'), news)
})

t.test('options that contradict those that the channel has are refused, naming them', async t => {
  const { channel } = await start(t)
  channel('news', { history: { events: 10 } })
  t.throws(() => channel('news', { history: { events: 11 } }), {
    code: 'FST_STREAM_INVALID_OPTION', message: "Option 'history.events' must be 10, as the channel 'news' has it already, got '11'"
  })
  t.throws(() => channel('news', { history: { age: 1000 } }), {
    code: 'FST_STREAM_INVALID_OPTION', message: "Option 'history.age' must be 300000, as the channel 'news' has it already, got '1000'"
  })
  t.throws(() => channel('news', { history: { events: 10, bytes: 1 } }), { code: 'FST_STREAM_INVALID_OPTION' })
})

t.test('a name is a non-empty well-formed string of at most 256 bytes', async t => {
  const { channel } = await start(t)
  for (const name of ['', 'x'.repeat(257), `${'é'.repeat(128)}x`, '\ud83d', 42, undefined, null, {}, ['news']]) {
    t.throws(() => channel(name as string), { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'name' must be a non-empty string of at most 256 bytes of UTF-8, got '/ })
  }
  for (const name of ['x'.repeat(256), 'é'.repeat(128), '__proto__', ' ', 'a\nb', '雪', '{a}:*']) t.equal(channel(name).name, name)
})

t.test('wrong and unknown options of a channel are refused', async t => {
  const { channel } = await start(t)
  for (const options of [
    null, 'news', [], { events: 10 }, { history: 10 }, { history: [] }, { history: { count: 1 } },
    { history: { events: 0 } }, { history: { events: 1.5 } }, { history: { events: Infinity } }, { history: { events: '10' } },
    { history: { bytes: 0 } }, { history: { bytes: -1 } }, { history: { bytes: NaN } },
    { history: { age: 0 } }, { history: { age: 2 ** 31 } }, { history: { age: '1000' } }
  ]) t.throws(() => channel('news', options as unknown as ChannelOptions), { code: 'FST_STREAM_INVALID_OPTION' })
  t.ok(channel('news', { history: { events: 1, bytes: 1, age: 1 } }), 'a refused call makes no channel')
  t.ok(channel('sport', { history: { events: undefined } }))
})

t.test('publish resolves with the id by which the event goes everywhere', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const seen: string[] = []
  const iterator = news.subscribe({ filter: ({ id }) => { seen.push(id); return true } })
  await iterator.next()
  const id = await news.publish({ event: 'headline', data: { a: 1 } }, { key: 'k' })
  t.match(id, /^[0-9A-Za-z-]{1,64}\.Gfug6Z$/)
  const [event] = await take(iterator, 1)
  t.match(event, { type: 'event', id, event: 'headline', key: 'k', data: '{"a":1}' })
  t.same(seen, [id])
  const next = await news.publish('next')
  t.match(await take(news.subscribe({ after: id }), 2), [{ type: 'position', id }, { type: 'event', id: next, data: 'next' }])
})

t.test('an event is given as it was published: its name, its data, its key', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterator = news.subscribe()
  await iterator.next()
  const cases: Array<[event: Parameters<Channel['publish']>[0], key: string | undefined, expected: { event: string, data: string }]> = [
    ['text', undefined, { event: 'message', data: 'text' }],
    ['', undefined, { event: 'message', data: '' }],
    [{ data: 'a\r\nb\rc\n' }, undefined, { event: 'message', data: 'a\nb\nc\n' }],
    [{ data: null }, undefined, { event: 'message', data: 'null' }],
    [{ data: { a: [1] } }, undefined, { event: 'message', data: '{"a":[1]}' }],
    [{ data: Buffer.from('é') }, undefined, { event: 'message', data: 'é' }],
    [{ event: 'alone' }, undefined, { event: 'alone', data: '' }],
    [{ event: '', data: 'x' }, undefined, { event: 'message', data: 'x' }],
    [{ event: 'all', data: 'data: x\nevent: y', comment: 'data: no\nevent: no', retry: 5 }, 'k', { event: 'all', data: 'data: x\nevent: y' }],
    ['keyed', '12\n3: data: x', { event: 'message', data: 'keyed' }],
    ['keyed', '😀', { event: 'message', data: 'keyed' }]
  ]
  for (const [event, key, expected] of cases) {
    const id = await news.publish(event, { key })
    const [given] = await take(iterator, 1)
    t.same({ ...given, json: undefined }, { type: 'event', id, key, json: undefined, ...expected })
  }
})

t.test('publish rejects what send rejects', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const cyclic: Record<string, unknown> = {}
  cyclic.cyclic = cyclic
  for (const event of [
    undefined, null, 42, true, Buffer.from('x'), {}, { data: undefined }, { type: 'x' }, { data: cyclic }, { data: 1n }, { data: () => {} }, { data: Buffer.from([0xff]) }
  ]) await t.rejects(news.publish(event as string), { code: 'FST_STREAM_INVALID_EVENT' })
  for (const event of [{ event: 'a\nb' }, { event: 1 }, { event: 'a\0' }, { retry: -1 }, { retry: 1.5 }, { comment: 1 }, 'half \ud83d', { data: '\ude00' }]) {
    await t.rejects(news.publish(event as string), { code: 'FST_STREAM_INVALID_FIELD' })
  }
  t.same(await replayed(news), [])
})

t.test('publish rejects an id: ids belong to the channel', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  for (const id of ['1', 1, '']) {
    await t.rejects(news.publish({ data: 'x', id } as never), {
      code: 'FST_STREAM_INVALID_FIELD', message: /^The field 'id' of an event must be absent: ids belong to the channel, got '/
    })
  }
  await news.publish({ data: 'x', id: undefined } as never)
  t.same(await replayed(news), ['x'])
})

t.test('publish rejects the names gap and position, with which the channel itself speaks', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  for (const event of ['gap', 'position']) {
    await t.rejects(news.publish({ event, data: 'x' }), {
      code: 'FST_STREAM_INVALID_FIELD', message: `The field 'event' of an event must be another one: gap and position are of the channel itself, got '${event}'`
    })
  }
  await news.publish({ event: 'gaps', data: 'x' })
  t.same(await replayed(news), ['x'])
})

t.test('wrong options of publish, subscribe and close are refused', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const invalid = { code: 'FST_STREAM_INVALID_OPTION' }
  for (const options of [null, 'k', { key: '' }, { key: 1 }, { key: '\ud83d' }, { idempotencyKey: '' }, { idempotencyKey: {} }, { id: '1' }]) {
    await t.rejects(news.publish('x', options as object), invalid)
  }
  for (const options of [null, 'id', { after: 1 }, { replay: 0 }, { replay: 'some' }, { replay: 1.5 }, { filter: 'odd' }, { lag: 'skip' }, { signal: {} }, { heartbeat: 1 }]) {
    t.throws(() => news.subscribe(options as object), invalid)
  }
  for (const options of [null, 1000, { retry: -1 }, { retry: [2, 1] }, { retry: '1' }, { reason: 'x' }]) t.throws(() => news.close(options as object), invalid)
  t.equal(news.size, 0)
  await news.publish('still open')
})

t.test('events are logged in the order of the calls, awaited or not, with subscribers that come in between', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const publishing = []
  for (let i = 0; i < 100; i++) {
    if (i === 50) news.subscribe()
    publishing.push(news.publish(String(i)))
  }
  await Promise.all(publishing)
  t.same(await replayed(news), Array.from({ length: 100 }, (_, i) => String(i)))
})

t.test('one who subscribes gets what is published right after, awaited or not', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterator = news.subscribe()
  const published = news.publish('1')
  await news.publish('2')
  const items = take(iterator, 3)
  t.equal(await settles(items), true)
  await iterator.return?.()
  t.match(await items, [{ type: 'position' }, { type: 'event', id: await published, data: '1' }, { type: 'event', data: '2' }])
})

t.test('an event with an idempotency key is published once, as long as it is in the history', async t => {
  const { channel } = await start(t)
  const news = channel('news', { history: { events: 2 } })
  const iterator = news.subscribe()
  await iterator.next()
  const id = await news.publish('once', { idempotencyKey: 'k' })
  t.equal(await news.publish('once', { idempotencyKey: 'k' }), id)
  await news.publish('2')
  await news.publish('3')
  t.not(await news.publish('once', { idempotencyKey: 'k' }), id)
  t.same((await take(iterator, 4) as Array<{ data: string }>).map(({ data }) => data), ['once', '2', '3', 'once'])
})

t.test('a history is bounded by events, bytes and age', async t => {
  const { channel } = await start(t)
  const clock = fakeClock(t)
  const byEvents = channel('events', { history: { events: 3 } })
  for (const data of ['1', '2', '3', '4']) await byEvents.publish(data)
  t.same(await replayed(byEvents), ['3', '4'], 'and one that tells the end')
  const byBytes = channel('bytes', { history: { bytes: 500 } })
  for (const data of ['1', '2', '3', '4']) await byBytes.publish(data.padEnd(150))
  t.same((await replayed(byBytes)).map(data => data.trim()), ['2', '3', '4'])
  const byAge = channel('age', { history: { age: 1000 } })
  await byAge.publish('1')
  await clock.tickAsync(999)
  await byAge.publish('2')
  await clock.tickAsync(1)
  t.same(await replayed(byAge), ['2'])
})

t.test('size counts the subscribers of this process, streams and iterators', async t => {
  const { port, app, outcome } = await serve(t, (request, reply) => reply.sse(app.streaming.channel('news')))
  const news = app.streaming.channel('news')
  t.equal(news.size, 0)
  const iterator = news.subscribe()
  t.equal(news.size, 1)
  const client = open(t, port)
  await client.until('event: position')
  t.equal(news.size, 2)
  await iterator.return?.()
  t.equal(news.size, 1)
  client.destroy()
  await outcome()
  t.equal(news.size, 0)
})

t.test('close() ends iterators, publish rejects and subscribe throws with FST_STREAM_CLOSED', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterator = news.subscribe()
  await iterator.next()
  const next = iterator.next()
  news.close()
  t.same(await next, { done: true, value: undefined })
  t.equal(news.size, 0)
  const closed = { code: 'FST_STREAM_CLOSED', statusCode: 503, message: "The channel 'news' is closed" }
  await t.rejects(news.publish('x'), closed)
  t.throws(() => news.subscribe(), closed)
  news.close()
  news.close({ retry: 1 })
})

t.test('a name that was closed may be opened anew, and its history is still there', async t => {
  const { channel } = await start(t)
  const old = channel('news', { history: { events: 10 } })
  const id = await old.publish('1')
  await old.publish('2')
  old.close()
  const news = channel('news', { history: { events: 20 } })
  t.not(news, old)
  t.match(await take(news.subscribe({ after: id }), 2), [{ type: 'position', id }, { type: 'event', data: '2' }])
  await news.publish('3')
  await t.rejects(old.publish('4'), { code: 'FST_STREAM_CLOSED' })
  t.equal(channel('news'), news, 'the old one closes the new one in no way')
  old.close()
  t.equal(channel('news'), news)
  t.same(await replayed(news), ['1', '2', '3'])
})

t.test('a channel that is closed while it is opened ends its subscribers, and publishes what waited', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterator = news.subscribe()
  const published = news.publish('1')
  news.close()
  t.same(await iterator.next(), { done: true, value: undefined })
  t.match(await published, /\.Gfug6Z$/)
  t.same(await replayed(channel('news')), ['1'])
})

t.test('a rejected publish that nobody awaits cannot kill the process, and is logged at warn', async t => {
  const { app, logs, logged } = await serve(t, () => '')
  const news = app.streaming.channel('news')
  void news.publish({ event: 'a\nb' })
  await logged('publish failed')
  void news.publish(undefined as never)
  void news.publish('x', { key: '' })
  news.close()
  void news.publish('x')
  await logged('publish failed', 4)
  t.match(logs.filter(({ level }) => level >= 40), [
    { level: 40, msg: 'publish failed', err: { code: 'FST_STREAM_INVALID_FIELD' } },
    { level: 40, msg: 'publish failed', err: { code: 'FST_STREAM_INVALID_EVENT' } },
    { level: 40, msg: 'publish failed', err: { code: 'FST_STREAM_INVALID_OPTION' } },
    { level: 40, msg: 'publish failed', err: { code: 'FST_STREAM_CLOSED' } }
  ])
})

t.test('a broker that is down rejects publishes, with and without subscribers, and is logged at warn', async t => {
  const down = async () => { throw new FST_STREAM_BROKER_UNAVAILABLE('no answer') }
  const broker = Object.assign(Object.create(memoryBroker()) as Broker, { publish: down, read: down, tail: down })
  const { app, logged } = await serve(t, () => '', { streaming: { broker } })
  const news = app.streaming.channel('news')
  await t.rejects(news.publish('x'), { code: 'FST_STREAM_BROKER_UNAVAILABLE', statusCode: 503, message: 'The broker is unavailable: no answer' })
  news.subscribe()
  await t.rejects(news.publish('x'), { code: 'FST_STREAM_BROKER_UNAVAILABLE' })
  t.match(await logged('publish failed', 2), { level: 40, err: { code: 'FST_STREAM_BROKER_UNAVAILABLE' } })
  t.match(await logged('the broker gives no answer: subscribers wait'), { level: 40, err: { code: 'FST_STREAM_BROKER_UNAVAILABLE' } })
})

t.test('a broker that its owner closes ends streams', async t => {
  const broker = memoryBroker()
  const { port, app } = await serve(t, (_request, reply) => reply.sse(app.streaming.channel('news')), { streaming: { broker } })
  const { body } = await request(`http://127.0.0.1:${port}/`)
  const text = body.text()
  await eventually(() => app.streaming.stats().subscribers === 1)
  await app.streaming.channel('news').publish('last')
  await broker.close()
  t.match(await text, /data: last\n\n$/)
  t.equal(app.streaming.stats().closed.closed, 1)
  await t.rejects(app.streaming.channel('news').publish('x'), { code: 'FST_STREAM_CLOSED' })
})

t.test('app.close() ends channels: iterators are done, and everything else is FST_STREAM_CLOSED', async t => {
  const { app } = await serve(t, () => '')
  const news = app.streaming.channel('news')
  const iterator = news.subscribe()
  await iterator.next()
  const next = iterator.next()
  await app.close()
  t.same(await next, { done: true, value: undefined })
  const closed = { code: 'FST_STREAM_CLOSED' }
  await t.rejects(news.publish('x'), closed)
  t.throws(() => app.streaming.channel('news'), closed)
  t.throws(() => app.streaming.channel('sport'), closed)
  t.throws(() => app.streaming.channel(''), { code: 'FST_STREAM_INVALID_OPTION' })
})

t.test('app.close() leaves a broker open that it was given', async t => {
  const broker = memoryBroker()
  const { app } = await serve(t, () => '', { streaming: { broker } })
  await app.streaming.channel('news').publish('x')
  await app.close()
  t.equal((await broker.read('news', 'earliest', 10)).events.length, 1)
})

t.test('registrations have channels of their own; those with the same broker share its log', async t => {
  const app = Fastify()
  const broker = memoryBroker()
  const found: Array<typeof app.streaming> = []
  for (const options of [{ broker }, { broker }, {}]) {
    await app.register(async scope => {
      await scope.register(streaming, options)
      found.push(scope.streaming)
    })
  }
  await app.ready()
  const [one, other, alone] = found as [typeof app.streaming, typeof app.streaming, typeof app.streaming]
  t.not(one.channel('news', { history: { events: 1 } }), other.channel('news', { history: { events: 2 } }))
  const iterators = [one, other, alone].map(({ channel }) => channel('news').subscribe())
  for (const iterator of iterators) await iterator.next()
  const id = await one.channel('news').publish('1')
  for (const iterator of iterators.slice(0, 2)) t.match(await iterator.next(), { value: { id, data: '1' } })
  t.equal(await settles((iterators[2] as AsyncIterator<ChannelItem>).next()), false)
  t.match([one, other, alone].map(({ stats }) => stats().subscribers), [1, 1, 1])
  one.channel('news').close()
  t.equal(await settles((iterators[1] as AsyncIterator<ChannelItem>).next()), false)
  await app.close()
})

t.test('a broker is checked when the plugin is registered', async t => {
  for (const broker of [null, 'redis', {}, { ...memoryBroker(), publish: 1 }]) {
    const app = Fastify()
    await t.rejects(async () => await app.register(streaming, { broker: broker as never }), { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'broker' must be a broker, as memoryBroker\(\) makes one, got / })
  }
})

t.test('the serializer of the plugin encodes what is published', async t => {
  const { channel } = await start(t, { serialize: data => `<${String(data)}>` })
  const news = channel('news')
  await news.publish({ data: 1 })
  await news.publish({ data: 'text' })
  t.same(await replayed(news), ['<1>', 'text'])
})

t.test('an event is serialised once, whatever the number of its subscribers', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterators = Array.from({ length: 50 }, () => news.subscribe())
  for (const iterator of iterators) await iterator.next()
  let calls = 0
  await news.publish({ data: { toJSON () { calls++; return { a: 1 } } } })
  const events = []
  for (const iterator of iterators) events.push(...await take(iterator, 1))
  t.equal(calls, 1)
  t.equal(new Set(events).size, 1, 'and they all get the same')
})

t.test('json() parses once for all who ask', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterators = Array.from({ length: 10 }, () => news.subscribe({ filter: event => (event.json() as { a: number }).a > 1 }))
  for (const iterator of iterators) await iterator.next()
  const parsed = t.capture(JSON, 'parse', JSON.parse)
  await news.publish({ data: { a: 1 } })
  await news.publish({ data: { a: 2 } })
  const values = []
  for (const iterator of iterators) values.push((await take(iterator, 1))[0].json())
  t.same(values[0], { a: 2 })
  t.equal(new Set(values).size, 1)
  t.same(parsed().map(({ args }) => args[0]), ['{"a":1}', '{"a":2}'])
  parsed.restore()
})

t.test('json() throws a SyntaxError for data that is none, each time', async t => {
  const { channel } = await start(t)
  const news = channel('news')
  const iterator = news.subscribe()
  await iterator.next()
  await news.publish('{')
  const [event] = await take(iterator, 1)
  t.throws(() => event.json(), SyntaxError)
  t.throws(() => event.json(), SyntaxError)
})

t.test('stats() counts channels that are in use, subscribers, gaps, and frames at hand', async t => {
  const { channel, stats } = await start(t)
  const clock = fakeClock(t)
  const counts = () => {
    const { channels, subscribers, gaps, frames, frameBytes } = stats()
    return { channels, subscribers, gaps, frames, frameBytes }
  }
  t.same(counts(), { channels: 0, subscribers: 0, gaps: 0, frames: 0, frameBytes: 0 })
  const news = channel('news', { history: { age: 60_000 } })
  const sport = channel('sport')
  t.same(counts(), { channels: 2, subscribers: 0, gaps: 0, frames: 0, frameBytes: 0 })
  const one = news.subscribe()
  const two = news.subscribe({ after: 'forged' })
  await one.next()
  t.match(await two.next(), { value: { type: 'gap' } })
  t.same(counts(), { channels: 2, subscribers: 2, gaps: 1, frames: 0, frameBytes: 0 })
  // data: 1, é: 8 and 9 bytes with its end of line.
  await news.publish('1')
  await news.publish('é')
  t.same(counts(), { channels: 2, subscribers: 2, gaps: 1, frames: 2, frameBytes: 17 })
  await sport.publish('1')
  t.same(counts(), { channels: 2, subscribers: 2, gaps: 1, frames: 2, frameBytes: 17 })
  await clock.tickAsync(300_000)
  t.same(counts(), { channels: 1, subscribers: 2, gaps: 1, frames: 2, frameBytes: 17 }, 'nobody has used sport for the age of its history')
  await one.return?.()
  await two.return?.()
  t.match(counts(), { channels: 1, subscribers: 0 })
  await clock.tickAsync(59_999)
  t.equal(counts().channels, 1)
  await clock.tickAsync(1)
  t.same(counts(), { channels: 0, subscribers: 0, gaps: 1, frames: 0, frameBytes: 0 })
  await news.publish('3')
  t.equal(counts().channels, 1)
  news.close()
  t.equal(counts().channels, 0)
})

t.test('a channel that nobody holds, and that keeps nothing, is forgotten', async t => {
  v8.setFlagsFromString('--expose-gc')
  const collect = vm.runInNewContext('gc') as () => void
  const channels = new Channels(undefined, JSON.stringify)
  t.teardown(() => channels.close())
  let collected = 0
  const registry = new FinalizationRegistry(() => { collected++ })
  registry.register(channels.channel('news', { history: { age: 1 } }), '')
  const held = channels.channel('sport', { history: { age: 1 } })
  await eventually(() => channels.stats().channels === 0)
  await eventually(() => {
    collect()
    return collected === 1
  })
  await turn(3)
  // Another one by that name would be told that its options contradict.
  t.equal(channels.channel('news', { history: { age: 2 } }).size, 0)
  t.equal(channels.channel('sport', { history: { age: 1 } }), held)
})

t.test('a name is not forgotten when a closed channel of that name is', async t => {
  v8.setFlagsFromString('--expose-gc')
  const collect = vm.runInNewContext('gc') as () => void
  const channels = new Channels(undefined, JSON.stringify)
  t.teardown(() => channels.close())
  let collected = 0
  const registry = new FinalizationRegistry(() => { collected++ })
  const openAndClose = () => {
    const channel = channels.channel('news', { history: { age: 1 } })
    registry.register(channel, '')
    channel.close()
  }
  openAndClose()
  const news = channels.channel('news', { history: { age: 2 } })
  await eventually(() => {
    collect()
    return collected === 1
  })
  await turn(3)
  t.equal(channels.channel('news', { history: { age: 2 } }), news)
})

t.test('what was published before close() reaches everybody who had seen the rest', async t => {
  const { app, port } = await serve(t, (request, reply) => reply.sse(request.server.streaming.channel('news')))
  const news = app.streaming.channel('news')
  const client = open(t, port)
  await client.until('event: position')
  const iterator = news.subscribe()
  await iterator.next()
  await news.publish('1')
  await news.publish('2')
  news.close()
  t.match(await client.end(), /data: 1\n\n[^]*data: 2\n\n/)
  t.match((await iterator.next()).value, { data: '1' })
  t.match((await iterator.next()).value, { data: '2' })
  t.equal((await iterator.next()).done, true)
})

t.test('an event cannot be changed by one subscriber for the others', async t => {
  const { app } = await serve(t, (request, reply) => reply.sse([]))
  const news = app.streaming.channel('news')
  const iterator = news.subscribe()
  await iterator.next()
  await news.publish({ data: 'x' })
  const { value } = await iterator.next()
  t.throws(() => { (value as { data: string }).data = 'y' }, TypeError)
})
