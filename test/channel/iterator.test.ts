import '../fixtures/guard.ts'
import diagnosticsChannel from 'node:diagnostics_channel'
import t from 'tap'
import { Channels } from '../../lib/channel/channels.ts'
import { fakeClock, settles, turn } from '../fixtures/clock.ts'
import type { Test } from 'tap'
import { type Broker, type ChannelItem, type History, type StreamGapMessage } from '../../lib/index.ts'

/** A channel of its own. */
function open (t: Test, history?: Partial<History>, broker?: Broker) {
  const channels = new Channels(broker, JSON.stringify)
  t.teardown(() => channels.close())
  return channels.channel('news', { history })
}

/** The next `count` items, in short: `data`, or `type`. */
async function take (iterator: AsyncIterator<ChannelItem>, count: number): Promise<string[]> {
  const items = []
  for (let i = 0; i < count; i++) {
    const { value, done } = await iterator.next()
    items.push(done === true ? 'done' : value.type === 'event' ? value.data : value.type)
  }
  return items
}

const done = { done: true, value: undefined }

t.test('an iterator gives its position first, and then what is published', async t => {
  const news = open(t)
  const before = await news.publish('before')
  const iterator = news.subscribe()
  t.same(await iterator.next(), { done: false, value: { type: 'position', id: before } })
  const id = await news.publish({ event: 'headline', data: { a: 1 } }, { key: 'k' })
  const { value: { json, ...value } } = await iterator.next()
  t.same(value, { type: 'event', id, event: 'headline', key: 'k', data: '{"a":1}' })
  t.same(json(), { a: 1 })
})

t.test('for await reads it, and a break unsubscribes', async t => {
  const news = open(t)
  for (const data of ['1', '2', '3']) await news.publish(data)
  const data = []
  for await (const item of news.subscribe({ replay: 'all' })) {
    if (item.type === 'event') data.push(item.data)
    t.equal(news.size, 1)
    if (data.length === 2) break
  }
  t.same(data, ['1', '2'])
  t.equal(news.size, 0)
})

t.test('an iterator follows from the call on, also when nobody asks yet', async t => {
  const news = open(t)
  const iterator = news.subscribe()
  await turn()
  await news.publish('1')
  await news.publish('2')
  t.same(await take(iterator, 3), ['position', '1', '2'])
})

t.test('after: what came since, and then what comes', async t => {
  const news = open(t)
  const first = await news.publish('1')
  await news.publish('2')
  const iterator = news.subscribe({ after: first, replay: 'all' })
  t.same(await iterator.next(), { done: false, value: { type: 'position', id: first } })
  await news.publish('3')
  t.same(await take(iterator, 2), ['2', '3'])
})

t.test('after: the newest id has nothing after it, and an empty one is none', async t => {
  const news = open(t)
  const id = await news.publish('1')
  for (const after of [id, '']) {
    const iterator = news.subscribe({ after })
    t.same(await iterator.next(), { done: false, value: { type: 'position', id } })
    t.equal(await settles(iterator.next()), false)
  }
  t.same(await take(news.subscribe({ after: '', replay: 'all' }), 2), ['position', '1'])
})

t.test('after: an id that is none of the channel is a gap, and then all that is retained comes', async t => {
  const news = open(t)
  await news.publish('1')
  for (const after of ['nonsense', '-', 'live', 'earliest', '\0', 'x'.repeat(10_000), '1-000000000000.7EUHhu']) {
    const iterator = news.subscribe({ after })
    const { value } = await iterator.next()
    t.match(value, { type: 'gap', reason: 'unknown', after: null })
    t.match(value.id, /^[0-9a-z]+-[0-9a-f]{12}\.Gfug6Z$/)
    t.same(await take(iterator, 1), ['1'])
    t.same(await take(news.subscribe({ after: value.id }), 2), ['position', '1'])
  }
})

t.test('after: an id of before a restart is a gap that names it', async t => {
  const old = await open(t).publish('x')
  const news = open(t)
  await news.publish('1')
  const iterator = news.subscribe({ after: old })
  t.match(await iterator.next(), { value: { type: 'gap', reason: 'unknown', after: old } })
  t.same(await take(iterator, 1), ['1'])
})

t.test('after: a trimmed position is a gap, from whose id on nothing is missing', async t => {
  const news = open(t, { events: 2 })
  const ids = []
  for (const data of ['1', '2', '3', '4']) ids.push(await news.publish(data))
  const iterator = news.subscribe({ after: ids[0] })
  t.same(await iterator.next(), { done: false, value: { type: 'gap', id: ids[1], reason: 'trimmed', after: ids[0] } })
  t.same(await take(iterator, 2), ['3', '4'])
  t.same(await take(news.subscribe({ after: ids[1] }), 3), ['position', '3', '4'])
})

t.test("replay 'all' gives all that is retained, a number the newest so many", async t => {
  const news = open(t, { events: 1000 })
  t.same(await take(news.subscribe({ replay: 'all' }), 1), ['position'])
  t.same(await take(news.subscribe({ replay: 5 }), 1), ['position'])
  const all = Array.from({ length: 700 }, (_, i) => `${i}`)
  for (const data of all) await news.publish(data)
  t.same(await take(news.subscribe({ replay: 'all' }), 701), ['position', ...all])
  for (const count of [1, 2, 255, 256, 257, 699, 700]) t.same(await take(news.subscribe({ replay: count }), count + 1), ['position', ...all.slice(-count)])
  t.same(await take(news.subscribe({ replay: 100_000 }), 701), ['position', ...all])
})

t.test('replay of one event gives one, also right after somebody else was given all', async t => {
  fakeClock(t)
  const news = open(t)
  await news.publish('1')
  t.same(await take(news.subscribe({ replay: 'all' }), 2), ['position', '1'])
  await news.publish('2')
  t.same(await take(news.subscribe({ replay: 1 }), 2), ['position', '2'])
})

t.test('what is older than the history is not given any more, also while others are subscribed', async t => {
  const clock = fakeClock(t)
  const news = open(t, { age: 1000 })
  const other = news.subscribe()
  const { value: { id } } = await other.next()
  await news.publish('old')
  t.same(await take(other, 1), ['old'])
  await clock.tickAsync(1000)
  t.same(await take(news.subscribe({ after: id }), 1), ['gap'])
})

t.test('a filter chooses; what it leaves out is not given', async t => {
  const news = open(t)
  const seen: unknown[] = []
  const iterator = news.subscribe({
    filter (event, ...rest) {
      seen.push([event.event, event.key, rest])
      return event.data !== '2'
    }
  })
  await iterator.next()
  for (const data of ['1', '2', '3']) await news.publish({ event: 'e', data }, { key: data })
  t.same(await take(iterator, 2), ['1', '3'])
  t.same(seen, [['e', '1', [undefined]], ['e', '2', [undefined]], ['e', '3', [undefined]]])
})

t.test('a filter is not asked about comments, and may take json out of the event', async t => {
  const news = open(t)
  const iterator = news.subscribe({ filter: ({ json }) => (json() as { mine: boolean }).mine })
  await iterator.next()
  await news.publish({ comment: 'not for it' })
  await news.publish({ data: { mine: false } })
  await news.publish({ data: { mine: true } })
  t.same(await take(iterator, 2), ['position', '{"mine":true}'])
})

t.test('a filter that throws ends its iterator with what it has thrown, after what passed before, and no other', async t => {
  const news = open(t)
  const other = news.subscribe()
  const iterator = news.subscribe({
    filter ({ data }) {
      if (data === '2') throw new TypeError('mine')
      return true
    }
  })
  await iterator.next()
  for (const data of ['1', '2', '3']) void news.publish(data)
  t.same(await take(iterator, 1), ['1'])
  await t.rejects(iterator.next(), { name: 'TypeError', message: 'mine' })
  t.same(await iterator.next(), done)
  t.equal(news.size, 1)
  t.same(await take(other, 4), ['position', '1', '2', '3'])
})

t.test('a filter that throws rejects the next() that waits, and ends those behind it', async t => {
  const news = open(t)
  const iterator = news.subscribe({ filter () { throw new TypeError('mine') } })
  await iterator.next()
  const [first, second] = [iterator.next(), iterator.next()]
  void news.publish('x')
  await t.rejects(first, { message: 'mine' })
  t.same(await second, done)
})

t.test('an async filter is refused, and its rejection is handled', async t => {
  const news = open(t)
  const iterator = news.subscribe({ filter: async () => { throw new Error('mine') } } as never)
  await iterator.next()
  void news.publish('x')
  await t.rejects(iterator.next(), { code: 'FST_STREAM_INVALID_OPTION', message: "Option 'filter' must be a function that returns true or false, got '[object Promise]'" })
})

t.test('any value of a filter is taken as true or false', async t => {
  const news = open(t)
  const values = [1, 'x', {}, 0, '', null, undefined]
  const iterator = news.subscribe({ filter: ({ data }) => values[Number(data)] as never })
  await iterator.next()
  for (const i of values.keys()) await news.publish(String(i))
  await news.publish('0')
  t.same(await take(iterator, 4), ['0', '1', '2', '0'])
})

t.test('a filter may end its iterator', async t => {
  const news = open(t)
  const iterator: AsyncIterableIterator<ChannelItem> = news.subscribe({ filter: () => { void iterator.return?.(); return true } })
  await iterator.next()
  void news.publish('1')
  void news.publish('2')
  t.same(await iterator.next(), done)
  t.equal(news.size, 0)
})

t.test('a filter may publish', async t => {
  const news = open(t, { events: 10_000 })
  const iterator = news.subscribe({
    filter ({ data }) {
      if (data === '1') for (let i = 0; i < 3000; i++) void news.publish('of the filter')
      return true
    }
  })
  const other = news.subscribe()
  await iterator.next()
  await other.next()
  void news.publish('1')
  void news.publish('2')
  t.same(await take(other, 3), ['1', '2', 'of the filter'])
  t.same(await take(iterator, 3), ['1', '2', 'of the filter'])
})

t.test('a comment or a retry alone moves the position', async t => {
  const news = open(t)
  const iterator = news.subscribe()
  await iterator.next()
  const ids = [await news.publish({ comment: 'x' }), await news.publish({ retry: 1000 })]
  t.same([await iterator.next(), await iterator.next()], ids.map(id => ({ done: false, value: { type: 'position', id } })))
})

t.test('next() calls that wait are answered in their order', async t => {
  const news = open(t)
  const iterator = news.subscribe()
  const items = Promise.all([iterator.next(), iterator.next(), iterator.next(), iterator.next()])
  await turn(3)
  for (const data of ['1', '2', '3', '4']) void news.publish(data)
  t.match(await items, [{ value: { type: 'position' } }, { value: { data: '1' } }, { value: { data: '2' } }, { value: { data: '3' } }])
  t.same(await take(iterator, 1), ['4'])
})

t.test('return() ends it: next() calls that wait and those that come are done, what is there is dropped', async t => {
  const news = open(t)
  const iterator = news.subscribe()
  const waiting = [iterator.next(), iterator.next()]
  t.match(await waiting[0], { value: { type: 'position' } })
  t.same(await iterator.return?.(), done)
  t.same(await waiting[1], done)
  t.same(await iterator.next(), done)
  t.equal(news.size, 0)
  const other = news.subscribe()
  await turn()
  await news.publish('1')
  await other.return?.()
  t.same(await other.next(), done)
  t.same(await other.return?.(), done)
})

t.test('return() before it knows where it starts', async t => {
  const news = open(t)
  await news.publish('1')
  for (const options of [{}, { replay: 'all' }, { replay: 1 }, { after: 'nonsense' }] as const) {
    const iterator = news.subscribe(options)
    await iterator.return?.()
    const late = news.subscribe(options)
    await Promise.resolve()
    await late.return?.()
    await turn(3)
    t.same([await iterator.next(), await late.next()], [done, done])
  }
  t.equal(news.size, 0)
})

t.test('signal ends it when it aborts, without an error, and is let go of at the end', async t => {
  const news = open(t)
  const controller = new AbortController()
  const iterator = news.subscribe({ signal: controller.signal })
  await iterator.next()
  const next = iterator.next()
  controller.abort(new Error('mine'))
  t.same(await next, done)
  t.same(await iterator.next(), done)
  t.equal(news.size, 0)
  const late = news.subscribe({ signal: controller.signal })
  t.equal(news.size, 0)
  t.same(await late.next(), done)
  const other = new AbortController()
  const removed = t.capture(other.signal, 'removeEventListener', other.signal.removeEventListener)
  await news.subscribe({ signal: other.signal }).return?.()
  t.equal(removed().length, 1)
})

t.test('a closed channel ends it after what is there', async t => {
  const news = open(t)
  const iterator = news.subscribe()
  const late = news.subscribe()
  t.same(await take(iterator, 1), ['position'])
  await turn()
  news.close()
  t.same(await take(iterator, 1), ['done'])
  t.same(await take(late, 2), ['position', 'done'])
})

t.test('an iterator that is behind is not in the way of others, and catches up from the log', async t => {
  const news = open(t, { events: 100_000, bytes: 1e9 })
  const slow = news.subscribe()
  const fast = news.subscribe()
  await take(slow, 1)
  await take(fast, 1)
  const all = Array.from({ length: 5000 }, (_, i) => String(i))
  for (const data of all) {
    await news.publish(data)
    t.same(await take(fast, 1), [data])
  }
  t.same(await take(slow, 5000), all)
})

t.test("lag 'gap': one that falls out of the history is told what it has lost, and goes on", async t => {
  const messages: unknown[] = []
  const listen = (message: unknown) => { messages.push(message) }
  diagnosticsChannel.subscribe('fastify-streaming:gap', listen)
  t.teardown(() => diagnosticsChannel.unsubscribe('fastify-streaming:gap', listen))
  const news = open(t, { events: 3 })
  const iterator = news.subscribe()
  await iterator.next()
  await news.publish('1')
  await turn()
  const ids = []
  for (let i = 2; i <= 100; i++) {
    ids.push(await news.publish(String(i)))
    await turn()
  }
  const { value: first } = await iterator.next()
  t.equal(first.data, '1')
  t.same(await iterator.next(), { done: false, value: { type: 'gap', id: ids.at(-4), reason: 'slow', after: first.id } })
  t.same(await take(iterator, 3), ['98', '99', '100'])
  await news.publish('101')
  t.same(await take(iterator, 1), ['101'])
  t.same(messages, [{ channel: 'news', reason: 'slow', after: first.id, request: undefined } satisfies StreamGapMessage])
})

t.test("lag 'disconnect': one that falls out of the history gets FST_STREAM_LAGGED, after what it has", async t => {
  const news = open(t, { events: 3 })
  const iterator = news.subscribe({ lag: 'disconnect' })
  await iterator.next()
  for (let i = 1; i <= 100; i++) {
    await news.publish(String(i))
    await turn()
  }
  t.same(await take(iterator, 1), ['1'])
  await t.rejects(iterator.next(), { code: 'FST_STREAM_LAGGED', message: "A subscriber of the channel 'news' has fallen out of its history" })
  t.same(await iterator.next(), done)
  t.equal(news.size, 0)
})

t.test("lag 'disconnect': a position that is unknown when it subscribes is a gap all the same", async t => {
  const news = open(t, { events: 1 })
  const old = await news.publish('1')
  await news.publish('2')
  await news.publish('3')
  const iterator = news.subscribe({ lag: 'disconnect', after: old })
  t.match(await iterator.next(), { value: { type: 'gap', reason: 'trimmed' } })
  t.same(await take(iterator, 1), ['3'])
})

t.test("lag 'latest': one that falls out of the history gets the newest event of each key, in order, without a gap", async t => {
  const news = open(t, { events: 4 })
  const iterator = news.subscribe({ lag: 'latest' })
  await iterator.next()
  await news.publish('first', { key: 'x' })
  await turn()
  for (let i = 0; i < 100; i++) {
    await news.publish(`x${i}`, { key: 'x' })
    await news.publish(`y${i}`, { key: 'y' })
    await turn()
  }
  await news.publish('z', { key: 'z' })
  t.same(await take(iterator, 4), ['first', 'x99', 'y99', 'z'])
  await news.publish('live')
  t.same(await take(iterator, 1), ['live'])
})

t.test("lag 'latest': events without a key count as missed, those that are retained, too", async t => {
  for (const keylessAt of [0, 99]) {
    const news = open(t, { events: 4 })
    const iterator = news.subscribe({ lag: 'latest' })
    await iterator.next()
    const first = await news.publish('first', { key: 'x' })
    await turn()
    for (let i = 0; i < 100; i++) {
      await news.publish(`x${i}`, { key: 'x' })
      if (i === keylessAt) await news.publish('keyless')
      await turn()
    }
    t.same(await take(iterator, 1), ['first'])
    t.match(await iterator.next(), { value: { type: 'gap', reason: 'slow', after: first } })
    t.same(await take(iterator, 1), ['x99'])
    await news.publish('live')
    t.same(await take(iterator, 1), ['live'])
  }
})

t.test("lag 'latest': a key of which the newest event is trimmed was lost", async t => {
  const news = open(t, { events: 4 })
  const iterator = news.subscribe({ lag: 'latest' })
  await iterator.next()
  await news.publish('first', { key: 'x' })
  await turn()
  await news.publish('only', { key: 'lost' })
  for (let i = 0; i < 100; i++) {
    await news.publish(`x${i}`, { key: 'x' })
    await turn()
  }
  t.same(await take(iterator, 3), ['first', 'gap', 'x99'])
})

t.test("lag 'latest': more keys than the history has events cannot be told from lost ones", async t => {
  const news = open(t, { events: 4 })
  const iterator = news.subscribe({ lag: 'latest' })
  await iterator.next()
  await news.publish('first', { key: 'x' })
  await turn()
  for (let i = 0; i < 100; i++) {
    await news.publish(`${i}`, { key: `k${i % 10}` })
    await turn()
  }
  t.same(await take(iterator, 6), ['first', 'gap', '96', '97', '98', '99'])
})

t.test("lag 'latest': more than fits in one page", async t => {
  const news = open(t, { events: 1000, bytes: 1e9 })
  const iterator = news.subscribe({ lag: 'latest' })
  await iterator.next()
  await news.publish('first', { key: 'x' })
  await turn()
  for (let i = 0; i < 2000; i++) {
    await news.publish(`${i}`.padEnd(300), { key: `k${i % 500}` })
    if (i % 10 === 0) await turn()
  }
  t.same((await take(iterator, 501)).map(data => data.trim()), ['first', ...Array.from({ length: 500 }, (_, i) => String(1500 + i))])
})

t.test("lag 'latest' is for those who are connected: a returning one gets everything", async t => {
  const news = open(t, { events: 4 })
  const id = await news.publish('0', { key: 'x' })
  for (const data of ['1', '2', '3', '4']) await news.publish(data, { key: 'x' })
  t.same(await take(news.subscribe({ lag: 'latest', after: id }), 5), ['position', '1', '2', '3', '4'])
})

t.test('a filter that ends its own iterator gives it nothing more, also what it lets pass', async t => {
  const news = open(t)
  const iterator = news.subscribe({ filter: () => { void iterator.return?.(); return true } })
  t.match(await iterator.next(), { value: { type: 'position' } })
  await news.publish('1')
  await turn(3)
  t.same(await iterator.next(), { done: true, value: undefined })
  t.same(await iterator.next(), { done: true, value: undefined })
})

t.test('lag latest gives the newest of each key that passes the filter, after a gap, as what else has passed is not known', async t => {
  const news = open(t, { events: 10 })
  const iterator = news.subscribe({ lag: 'latest', filter: ({ event }) => event === 'price' })
  for (let i = 0; i < 30; i++) {
    for (const event of ['price', 'volume']) await news.publish({ event, data: i }, { key: 'ACME' })
    if (i % 5 === 0) await turn()
  }
  const items: Array<ChannelItem | undefined> = []
  while (items.at(-1)?.type !== 'event' || (items.at(-1) as { data: string }).data !== '29') items.push((await iterator.next()).value)
  t.same(items.slice(-2).map(item => item?.type === 'event' ? item.data : item?.type), ['gap', '29'])
})

t.test('a filter that throws while lag latest chooses ends its iterator', async t => {
  const news = open(t, { events: 10 })
  let isAngry = false
  const iterator = news.subscribe({ lag: 'latest', filter: () => { if (isAngry) throw new Error('mine'); return true } })
  for (let i = 0; i < 30; i++) {
    await news.publish(String(i), { key: 'k' })
    if (i % 5 === 0) await turn()
  }
  isAngry = true
  await t.rejects(async () => { for await (const item of iterator) if (item.type === 'gap') t.fail('a gap') }, { message: 'mine' })
})
