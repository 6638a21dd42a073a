import '../fixtures/guard.ts'
import v8 from 'node:v8'
import vm from 'node:vm'
import t, { type Test } from 'tap'
import { Channels } from '../../lib/channel/channels.ts'
import { Cursor, type LagPolicy, type Start, type Subscriber } from '../../lib/channel/cursor.ts'
import { Feed, type FeedHost } from '../../lib/channel/feed.ts'
import type { Batch, Frame, Gap } from '../../lib/channel/frame.ts'
import { deferred, eventually, fakeClock, settles, turn } from '../fixtures/clock.ts'
import { tailOf } from '../fixtures/tail.ts'
import { memoryBroker, type Broker, type ChannelItem, type History, type Stored, type Tail } from '../../lib/index.ts'

/** A memory broker of which a test may replace what it likes. */
function brokerWith (own: (inner: Broker) => Partial<Broker> = () => ({})): Broker {
  const inner = memoryBroker()
  return {
    publish: async (...args) => await inner.publish(...args),
    read: async (...args) => await inner.read(...args),
    tail: async (...args) => await inner.tail(...args),
    compare: (...args) => inner.compare(...args),
    valid: id => inner.valid(id),
    ready: async () => await inner.ready(),
    close: async () => await inner.close(),
    ...own(inner)
  }
}

/** A broker of which a test has the tail: it may keep it from hearing, and hold up what was read. */
function brokerOnALine () {
  const line = {
    tail: undefined as unknown as Tail,
    isDeaf: false,
    held: undefined as Promise<void> | undefined,
    broker: brokerWith(inner => ({
      tail: async (channel, own) => {
        line.tail = own
        return await inner.tail(channel, tailOf(event => { if (!line.isDeaf) own.event(event) }))
      },
      read: async (channel, from, limit) => {
        const page = await inner.read(channel, from, limit)
        if (line.held !== undefined) await line.held
        return page
      }
    }))
  }
  return line
}

const noHost: FeedHost = { emptied () {}, away () {}, back () {}, ended () {} }
const defaults: History = { events: 256, bytes: 1_048_576, age: 300_000 }

/** A feed that is open, and what publishes to it. */
async function openFeed (t: Test, history: Partial<History> = {}, broker = memoryBroker()) {
  const bounds = { ...defaults, ...history }
  let emptied = 0
  const feed = new Feed(broker, 'news', 'Gfug6Z', bounds, { ...noHost, emptied: () => { emptied++ } })
  t.teardown(() => { feed.close() })
  await feed.opened
  return { feed, broker, publish: (data: string) => broker.publish('news', `\ndata: ${data}\n`, { history: bounds }), emptied: () => emptied }
}

/** A subscriber that keeps what it is given. */
class Client implements Subscriber {
  lag: LagPolicy = 'gap'
  readonly data: string[] = []
  readonly batches: Batch[] = []
  readonly told: unknown[] = []
  readonly cursor: Cursor
  flushes = 0
  filter: ((frame: Frame) => boolean) | undefined
  onDeliver = () => {}
  #hasRoom = true
  #waiting: Array<(isOpen: boolean) => void> = []

  constructor (feed: Feed, start: Start = { from: 'live' }) {
    this.cursor = new Cursor(feed, 'news', this)
    void this.cursor.start(start)
  }

  get isFiltered (): boolean { return this.filter !== undefined }

  wants (frame: Frame): boolean { return this.filter?.(frame) ?? true }

  get hasRoom (): boolean { return this.#hasRoom }

  set hasRoom (hasRoom: boolean) {
    this.#hasRoom = hasRoom
    if (hasRoom) for (const resolve of this.#waiting.splice(0)) resolve(true)
  }

  room (): Promise<boolean> {
    return this.#hasRoom ? Promise.resolve(true) : new Promise(resolve => this.#waiting.push(resolve))
  }

  leave (): void {
    this.cursor.release()
    for (const resolve of this.#waiting.splice(0)) resolve(false)
  }

  started (cursor: Cursor, gap: Gap | undefined): void {
    this.told.push(gap ?? 'started')
    cursor.go()
  }

  deliver (cursor: Cursor, batch: Batch): void {
    this.batches.push(batch)
    for (const { view } of batch.frames) this.data.push(view.data)
    this.onDeliver()
  }

  flush (): void { this.flushes++ }
  missed (cursor: Cursor, gap: Gap): void { this.told.push(gap) }
  lagged (): void { this.told.push('lagged') }
  closed (): void { this.told.push('closed') }
}

async function take (iterator: AsyncIterator<ChannelItem>, count: number): Promise<string[]> {
  const items = []
  for (let i = 0; i < count; i++) {
    const { value, done } = await iterator.next()
    items.push(done === true ? 'done' : value.type === 'event' ? value.data : value.type)
  }
  return items
}

t.test('ten thousand subscribers are served in slices: others have their turn in between, and nobody is left out', async t => {
  const { feed, publish } = await openFeed(t)
  const clients = Array.from({ length: 10_000 }, () => new Client(feed))
  let time = performance.now()
  const now = t.capture(performance, 'now', () => time)
  let servedBefore = 0
  for (const client of clients) client.onDeliver = () => { time += 0.01 }
  await publish('1')
  const other = new Promise<void>(resolve => setImmediate(() => {
    servedBefore = clients.filter(({ data }) => data.length > 0).length
    resolve()
  }))
  await other
  t.ok(servedBefore >= 1000 && servedBefore < 1100, `${servedBefore} served in the first slice of 10 ms`)
  await turn(12)
  t.equal(clients.filter(({ data }) => data.join() === '1').length, 10_000)
  t.equal(new Set(clients.map(({ batches }) => batches[0])).size, 1, 'all share one batch')
  now.restore()
})

t.test('who leaves or comes while a pass is under way is in the way of nobody', async t => {
  const { feed, publish } = await openFeed(t)
  const clients = Array.from({ length: 500 }, () => new Client(feed))
  let time = performance.now()
  const now = t.capture(performance, 'now', () => time)
  for (const client of clients) client.onDeliver = () => { time += 1 }
  await publish('1')
  // Served already, about to be, and not for long; slices are of 64.
  await turn()
  const gone = new Set([0, 1, 63, 64, 65, 200, 499].map(i => clients[i] as Client))
  for (const client of gone) client.leave()
  await publish('2')
  const late = new Client(feed)
  await turn()
  const publishing = publish('3')
  for (const client of [clients[2], clients[300]] as Client[]) {
    gone.add(client)
    client.leave()
  }
  await publishing
  await turn(40)
  now.restore()
  for (const client of clients) if (!gone.has(client)) t.equal(client.data.join(), '1,2,3')
  t.equal(late.data.join(), '3')
  t.equal(feed.subscribers, 500 + 1 - gone.size)
  for (const client of [...clients, late]) client.leave()
  t.equal(feed.subscribers, 0)
})

t.test('who leaves while the last one is served leaves everybody in place', async t => {
  const { feed, publish } = await openFeed(t)
  const [first, second, last] = [new Client(feed), new Client(feed), new Client(feed)]
  await turn()
  last.onDeliver = () => { first.leave() }
  await publish('1')
  await turn()
  t.equal(feed.subscribers, 2)
  last.leave()
  await publish('2')
  await turn()
  second.leave()
  t.equal(feed.subscribers, 0)
  t.strictSame([first.data, second.data, last.data], [['1'], ['1', '2'], ['1']])
})

t.test('a publisher that does not wait is stopped by nobody: everybody who has room is served before anything is dropped', async t => {
  const { feed, publish } = await openFeed(t, { events: 10 })
  const clients = [new Client(feed), new Client(feed), new Client(feed)]
  for (let i = 0; i < 5000; i++) void publish(String(i))
  t.ok(feed.frames <= 10 + 1024)
  await turn(2)
  const all = Array.from({ length: 5000 }, (_, i) => String(i))
  for (const client of clients) {
    t.same(client.told, ['started'])
    t.same(client.data, all)
  }
  t.equal(feed.frames, 10)
})

t.test('the same for bytes: a window of a mebibyte more', async t => {
  const { feed, publish } = await openFeed(t, { bytes: 1000 })
  const client = new Client(feed)
  const stalled = new Client(feed)
  stalled.hasRoom = false
  for (let i = 0; i < 50; i++) {
    void publish(String(i).padEnd(100_000))
    t.ok(feed.bytes <= 1000 + 1_048_576 + 2 * 100_010)
  }
  await turn(2)
  t.same(client.data.map(data => data.trim()), Array.from({ length: 50 }, (_, i) => String(i)))
  t.same([client.told, stalled.told], [['started'], ['started']])
  t.equal(feed.frames, 1, 'the newest is kept whatever its size')
  stalled.hasRoom = true
  await eventually(() => stalled.data.length === 1)
  t.match(stalled.told[1], { reason: 'slow' })
})

t.test('a batch is about 64 KiB, and the window holds 64 events', async t => {
  const { feed, publish } = await openFeed(t, { events: 1000, bytes: 1e9 })
  const client = new Client(feed)
  for (let i = 0; i < 100; i++) void publish(String(i).padEnd(20_000))
  await turn(2)
  t.same(client.batches.slice(0, 3).map(({ frames }) => frames.length), [4, 4, 4])
  t.equal(client.data.length, 100)
  t.equal(feed.frames, 64)
})

t.test('one that is behind reads from the log in pages, with turns in between, until it is in the window again', async t => {
  const { feed, publish } = await openFeed(t, { events: 10_000, bytes: 1e9 })
  const client = new Client(feed)
  client.hasRoom = false
  for (let i = 0; i < 3000; i++) {
    await publish(String(i))
    if (i % 10 === 0) await turn()
  }
  await turn()
  t.equal(feed.frames, 64)
  client.hasRoom = true
  await turn()
  t.ok(client.data.length < 1000)
  await eventually(() => client.data.length === 3000)
  t.same(client.data, Array.from({ length: 3000 }, (_, i) => String(i)))
  t.same(client.told, ['started'])
})

t.test('one that loses its room in the middle of a page reads on from there', async t => {
  const { feed, publish } = await openFeed(t, { events: 10_000, bytes: 1e9 })
  for (let i = 0; i < 300; i++) await publish(String(i).padEnd(1000))
  const client = new Client(feed, { from: 'earliest' })
  client.onDeliver = () => {
    client.hasRoom = false
    void turn().then(() => { client.hasRoom = true })
  }
  await eventually(() => client.data.length >= 300)
  t.same(client.data.map(data => data.trim()), Array.from({ length: 300 }, (_, i) => String(i)))
})

t.test('one that leaves while it reads is given nothing any more', async t => {
  const { feed, publish } = await openFeed(t, { events: 10_000, bytes: 1e9 })
  for (let i = 0; i < 1000; i++) await publish(String(i))
  const leaving = new Client(feed, { from: 'earliest' })
  leaving.onDeliver = () => { leaving.leave() }
  await turn(10)
  t.equal(leaving.batches.length, 1)
  const waiting = new Client(feed, { from: 'earliest' })
  waiting.hasRoom = false
  await turn(3)
  waiting.leave()
  const between = new Client(feed, { from: 'earliest' })
  await eventually(() => between.data.length > 0)
  between.leave()
  const { length } = between.data
  await turn(10)
  t.equal(between.data.length, length)
  t.equal(waiting.data.length, 0)
  t.equal(feed.subscribers, 0)
  leaving.leave()
})

t.test('those who ask for the same page within 50 ms share one read; after that it is read anew', async t => {
  let reads = 0
  const broker = brokerWith(inner => ({ read: async (...args) => { reads++; return await inner.read(...args) } }))
  const { feed, publish } = await openFeed(t, {}, broker)
  const clock = fakeClock(t)
  for (const data of ['1', '2', '3']) await publish(data)
  reads = 0
  const clients = Array.from({ length: 100 }, () => new Client(feed, { from: 'earliest' }))
  await eventually(() => clients.every(({ data }) => data.length === 3))
  t.ok(reads <= 2, `${reads} reads`)
  reads = 0
  clients.push(new Client(feed, { from: 'earliest' }))
  await turn(3)
  t.equal(reads, 1, 'where the log begins is always asked')
  reads = 0
  await clock.tickAsync(50)
  clients.push(new Client(feed, { from: 'earliest' }))
  await turn(3)
  t.equal(reads, 1)
  for (const { data } of clients) t.equal(data.join(), '1,2,3')
})

t.test('a page that is asked for again and again is kept, for two seconds at most', async t => {
  let reads = 0
  const broker = brokerWith(inner => ({ read: async (...args) => { reads++; return await inner.read(...args) } }))
  const { feed, publish } = await openFeed(t, { events: 200 }, broker)
  const clock = fakeClock(t)
  const first = await publish('first')
  for (let i = 0; i < 100; i++) await publish(String(i))
  await turn(3)
  reads = 0
  for (let i = 0; i < 60; i++) {
    const client = new Client(feed, { from: first })
    await eventually(() => client.data.length === 100)
    await clock.tickAsync(40)
  }
  // Read at 0 and 2000 ms.
  t.ok(reads <= 4, `${reads} reads`)
  const before = reads
  await clock.tickAsync(100)
  const client = new Client(feed, { from: first })
  await eventually(() => client.data.length === 100)
  t.ok(reads > before)
})

t.test('a thousand who go on with one page do so in many turns of the loop', async t => {
  const { feed, publish } = await openFeed(t, { events: 200 })
  const first = await publish('first')
  for (let i = 0; i < 100; i++) await publish(String(i))
  await turn(3)
  const clients = Array.from({ length: 1000 }, () => new Client(feed, { from: first }))
  const served = () => clients.filter(({ data }) => data.length > 0).length
  await eventually(() => served() > 0)
  let most = served()
  while (served() < 1000) {
    const before = served()
    await turn()
    most = Math.max(most, served() - before)
  }
  t.ok(most <= 100, `${most} in one turn`)
  await eventually(() => clients.every(({ data }) => data.length === 100))
})

t.test('a broker that was silent and tells of something is asked at once', async t => {
  const line = brokerOnALine()
  let isSilent = false
  let asked = 0
  const read: Broker['read'] = async (...args) => {
    asked++
    if (isSilent) throw new Error('no answer')
    return await line.broker.read(...args)
  }
  const broker = { ...line.broker, read }
  const { feed, publish } = await openFeed(t, {}, broker)
  const client = new Client(feed)
  fakeClock(t)
  isSilent = true
  line.isDeaf = true
  await publish('1')
  asked = 0
  line.tail.disrupted()
  await turn(5)
  t.equal(asked, 1)
  isSilent = false
  line.tail.disrupted()
  await eventually(() => client.data.length === 1)
})

t.test('a broker that gives the same events again is framed once', async t => {
  const { feed, publish } = await openFeed(t)
  const live = new Client(feed)
  await publish('1')
  await turn(2)
  const returning = new Client(feed, { from: 'earliest' })
  await eventually(() => returning.data.length === 1)
  t.equal(live.batches[0]?.frames[0], returning.batches[0]?.frames[0])
})

t.test('a feed outlives its last subscriber by 30 seconds; then its tail ends', async t => {
  let tailed = 0
  let untailed = 0
  const broker = brokerWith(inner => ({
    tail: async (...args) => {
      tailed++
      const untail = await inner.tail(...args)
      return async () => { untailed++; await untail() }
    }
  }))
  const channels = new Channels(broker, JSON.stringify)
  const news = channels.channel('news', undefined)
  const clock = fakeClock(t)
  const first = news.subscribe()
  const second = news.subscribe()
  t.same(await take(first, 1), ['position'])
  await first.return?.()
  await clock.tickAsync(60_000)
  t.same([tailed, untailed], [1, 0], 'one has still been there')
  await second.return?.()
  await clock.tickAsync(29_999)
  t.same([tailed, untailed], [1, 0])
  const third = news.subscribe()
  t.same(await take(third, 1), ['position'])
  await clock.tickAsync(60_000)
  t.same([tailed, untailed], [1, 0])
  await third.return?.()
  await news.publish('between')
  t.equal(channels.stats().frames, 1)
  await clock.tickAsync(30_000)
  t.same([tailed, untailed], [1, 1])
  t.equal(channels.stats().frames, 0)
  const fourth = news.subscribe({ replay: 1 })
  t.same(await take(fourth, 2), ['position', 'between'])
  t.same([tailed, untailed], [2, 1])
  news.close()
  await turn()
  t.same([tailed, untailed], [2, 2])
})

t.test('a tail that is there only after its feed has closed is ended, and one that fails to end does no harm', async t => {
  const attached = deferred()
  let untailed = 0
  const broker = brokerWith(inner => ({
    tail: async (...args) => {
      const untail = await inner.tail(...args)
      await attached.promise
      return async () => {
        untailed++
        await untail()
        throw new Error('down')
      }
    }
  }))
  const news = new Channels(broker, JSON.stringify).channel('news', undefined)
  const iterator = news.subscribe()
  await turn(2)
  news.close()
  t.equal(untailed, 0)
  attached.resolve()
  await turn(2)
  t.equal(untailed, 1)
  t.same(await take(iterator, 1), ['done'])
})

t.test('a feed that closes while the log is read does nothing any more', async t => {
  for (const hold of ['live', 'earliest', 'resync'] as const) {
    const answer = deferred()
    let reads = 0
    let tail!: Tail
    const broker = brokerWith(inner => ({
      tail: async (channel, told) => {
        tail = told
        return await inner.tail(channel, told)
      },
      read: async (channel, from, limit) => {
        reads++
        const page = await inner.read(channel, from, limit)
        if (from === hold || (hold === 'resync' && reads > 1)) await answer.promise
        return page
      }
    }))
    const channels = new Channels(broker, JSON.stringify)
    const news = channels.channel('news', undefined)
    const iterator = news.subscribe({ replay: hold === 'earliest' ? 'all' : hold === 'live' ? 3 : undefined })
    await turn(2)
    if (hold === 'resync') {
      tail.disrupted()
      t.same(await take(iterator, 1), ['position'])
    }
    const next = iterator.next()
    await channels.close()
    t.same(await next, { done: true, value: undefined })
    answer.resolve()
    await turn(3)
    const before = reads
    tail.disrupted()
    tail.event({ id: '9-x', previous: '8-x', data: '\ndata: x\n' })
    await turn(2)
    t.equal(reads, before)
  }
})

t.test('a broker that is down is asked after 100 ms, and then after up to 5 seconds, until the feed closes', async t => {
  let asked = 0
  const broker = brokerWith(() => ({ tail: async () => { asked++; throw new Error('down') } }))
  const clock = fakeClock(t)
  // The longest pause each time.
  const random = t.capture(Math, 'random', () => 1)
  const channels = new Channels(broker, JSON.stringify)
  const news = channels.channel('news', undefined)
  const iterator = news.subscribe()
  await turn()
  t.equal(asked, 1)
  let count = 1
  for (const pause of [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]) {
    await clock.tickAsync(pause - 1)
    t.equal(asked, count)
    await clock.tickAsync(1)
    t.equal(asked, ++count)
  }
  random.restore()
  const shortest = t.capture(Math, 'random', () => 0)
  await clock.tickAsync(5000)
  count = asked
  await clock.tickAsync(2500)
  t.equal(asked, count + 1)
  shortest.restore()
  await channels.close()
  t.same(await take(iterator, 1), ['done'])
  await clock.tickAsync(20_000)
  t.equal(asked, count + 1)
})

t.test('a broker that fails after the feed has closed is asked no more', async t => {
  const answer = deferred()
  let asked = 0
  const broker = brokerWith(() => ({ tail: async () => { asked++; await answer.promise; throw new Error('down') } }))
  const channels = new Channels(broker, JSON.stringify)
  channels.channel('news', undefined).subscribe()
  await turn()
  await channels.close()
  answer.resolve()
  await turn(3)
  t.equal(asked, 1)
})

t.test('what is told while the log is read is in its place afterwards, and what the log had is told once', async t => {
  const answer = deferred()
  const broker = brokerWith(inner => ({
    read: async (channel, from, limit) => {
      const page = await inner.read(channel, from, limit)
      if (from === 'live') await answer.promise
      return page
    }
  }))
  const channels = new Channels(broker, JSON.stringify)
  t.teardown(() => channels.close())
  const iterator = channels.channel('news', undefined).subscribe()
  await turn(2)
  // Of another process: they do not wait for this one.
  for (const data of ['1', '2', '3']) await broker.publish('news', `\ndata: ${data}\n`)
  answer.resolve()
  const { value } = await iterator.next()
  await broker.publish('news', '\ndata: 4\n')
  const { events } = await broker.read('news', value.id.split('.')[0], 10)
  t.same(await take(iterator, events.length), ['1', '2', '3', '4'].slice(-events.length))
  t.equal(await settles(iterator.next()), false)
})

t.test('more than a thousand events that are told while the log is read are read instead', async t => {
  const answer = deferred()
  const line = brokerOnALine()
  const { broker } = line
  const history = { ...defaults, events: 10_000 }
  const channels = new Channels(broker, JSON.stringify)
  t.teardown(() => channels.close())
  const iterator = channels.channel('news', { history }).subscribe()
  t.same(await take(iterator, 1), ['position'])
  line.held = answer.promise
  line.tail.disrupted()
  await turn()
  const all = Array.from({ length: 3000 }, (_, i) => String(i))
  for (const data of all) void broker.publish('news', `\ndata: ${data}\n`, { history })
  await turn()
  line.held = undefined
  answer.resolve()
  t.same(await take(iterator, 3000), all)
})

t.test('a resync that finds what was missed goes on without a gap, and one that comes too late for the buffer reads again', async t => {
  const told: Stored[] = []
  let tail!: Tail
  const broker = brokerWith(inner => ({
    tail: async (channel, own) => {
      tail = own
      return await inner.tail(channel, tailOf(event => { told.push(event) }))
    }
  }))
  const channels = new Channels(broker, JSON.stringify)
  t.teardown(() => channels.close())
  const iterator = channels.channel('news', undefined).subscribe()
  t.same(await take(iterator, 1), ['position'])
  for (const data of ['1', '2', '3', '4']) await broker.publish('news', `\ndata: ${data}\n`)
  // The second is never told; the fourth comes while the log is read; then again, and an old one.
  tail.event(told[0] as Stored)
  tail.event(told[2] as Stored)
  tail.event(told[3] as Stored)
  t.same(await take(iterator, 4), ['1', '2', '3', '4'])
  for (const event of told) tail.event(event)
  await broker.publish('news', '\ndata: 5\n')
  await broker.publish('news', '\ndata: 6\n')
  tail.event(told[5] as Stored)
  t.same(await take(iterator, 2), ['5', '6'])
  t.equal(await settles(iterator.next()), false)
})

t.test('an event that waits in the buffer and does not follow what was read makes it read again', async t => {
  const answer = deferred()
  let isHeld = false
  const told: Stored[] = []
  let tail!: Tail
  const broker = brokerWith(inner => ({
    tail: async (channel, own) => {
      tail = own
      return await inner.tail(channel, tailOf(event => { told.push(event) }))
    },
    read: async (channel, from, limit) => {
      const page = await inner.read(channel, from, limit)
      if (isHeld) await answer.promise
      return page
    }
  }))
  const channels = new Channels(broker, JSON.stringify)
  t.teardown(() => channels.close())
  const iterator = channels.channel('news', undefined).subscribe()
  t.same(await take(iterator, 1), ['position'])
  isHeld = true
  tail.disrupted()
  await turn()
  for (const data of ['1', '2', '3']) await broker.publish('news', `\ndata: ${data}\n`)
  tail.event(told[2] as Stored)
  isHeld = false
  answer.resolve()
  t.same(await take(iterator, 3), ['1', '2', '3'])
})

t.test('a broker that is disrupted while publishes wait for the feed to open is read again, once at a time', async t => {
  const opened = deferred()
  const tails: Tail[] = []
  let reading = 0
  let most = 0
  const broker = brokerWith(inner => ({
    tail: async (channel, tail) => {
      tails.push(tail)
      return await inner.tail(channel, tail)
    },
    read: async (channel, from, limit) => {
      most = Math.max(most, ++reading)
      if (from === 'live') await opened.promise
      else await turn()
      const page = await inner.read(channel, from, limit)
      reading--
      return page
    },
    publish: async (...args) => {
      const published = inner.publish(...args)
      for (const tail of tails) tail.disrupted()
      return await published
    }
  }))
  const feed = new Feed(broker, 'news', 'Gfug6Z', defaults, noHost)
  t.teardown(() => { feed.close() })
  await turn()
  // Publishes of this process wait until the feed is open.
  for (const data of ['1', '2', '3']) feed.whenOpen(() => { void broker.publish('news', `\ndata: ${data}\n`) })
  const failure = feed.opened.then(() => undefined, (error: unknown) => error)
  opened.resolve()
  await turn(20)
  t.equal(await failure, undefined)
  t.equal(most, 1)
})

t.test('one that had seen everything when the link broke was not slow: it is told of the gap, whatever its lag', async t => {
  for (const lag of ['gap', 'latest', 'disconnect'] as const) {
    const line = brokerOnALine()
    const channels = new Channels(line.broker, JSON.stringify)
    t.teardown(() => channels.close())
    const news = channels.channel('news', { history: { events: 2 } })
    const iterator = news.subscribe({ lag })
    const items: string[] = []
    const read = async () => {
      try {
        for await (const item of iterator) items.push(item.type === 'event' ? item.data : item.type === 'gap' ? item.reason : item.type)
      } catch (error) {
        items.push((error as { code: string }).code)
      }
    }
    void read()
    await eventually(() => items.length === 1)
    line.isDeaf = true
    for (let i = 0; i < 500; i++) await news.publish(`${i}`, { key: 'k' })
    line.isDeaf = false
    line.tail.disrupted()
    await turn(20)
    t.same(items, ['position', 'unknown', '498', '499'])
  }
})

t.test('replay of the newest n is told over when the channel closes meanwhile', async t => {
  const answer = deferred()
  const broker = brokerWith(inner => ({
    read: async (channel, from, limit) => {
      if (from !== 'live') await answer.promise
      return await inner.read(channel, from, limit)
    }
  }))
  const { feed } = await openFeed(t, {}, broker)
  const client = new Client(feed, { from: 3 })
  feed.close()
  answer.resolve()
  await turn(2)
  t.same(client.told, ['closed'])
  t.equal(feed.isClosed, true)
  feed.close()
  t.same(client.told, ['closed'], 'once')
})

t.test('a subscriber of lag latest whose log is trimmed again and again while it skips is told', async t => {
  const inner = memoryBroker()
  const bounds = { ...defaults, events: 300 }
  let onRead = async () => {}
  const broker = brokerWith(() => ({
    publish: async (...args) => await inner.publish(...args),
    tail: async (...args) => await inner.tail(...args),
    valid: id => inner.valid(id),
    read: async (channel, from, limit) => {
      const page = await inner.read(channel, from, limit)
      await onRead()
      return page
    }
  }))
  const { feed } = await openFeed(t, bounds, broker)
  const publish = async (data: string) => await inner.publish('news', `1\nkdata: ${data}\n`, { history: bounds })
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  for (let i = 0; i < 1000; i++) {
    await publish(String(i).padEnd(1000))
    if (i % 50 === 0) await turn()
  }
  let isFirst = true
  onRead = async () => {
    if (!isFirst) return
    isFirst = false
    for (let i = 1000; i < 2000; i++) await publish(String(i).padEnd(1000))
  }
  client.hasRoom = true
  await eventually(() => client.data.at(-1)?.trim() === '1999')
  t.match(client.told, ['started', { reason: 'slow' }])
})

t.test('a subscriber of lag latest that leaves, or has no more room, while it skips', async t => {
  const { feed, broker } = await openFeed(t, { events: 300, bytes: 1e9 })
  const publish = async (data: string, key: string) => await broker.publish('news', `${key.length}\n${key}data: ${data}\n`, { history: { ...defaults, events: 300, bytes: 1e9 } })
  const leaving = new Client(feed)
  const narrow = new Client(feed)
  for (const client of [leaving, narrow]) {
    client.lag = 'latest'
    client.hasRoom = false
  }
  for (let i = 0; i < 1000; i++) {
    await publish(String(i).padEnd(1000), `k${i % 200}`)
    if (i % 50 === 0) await turn()
  }
  leaving.hasRoom = true
  await turn(2)
  leaving.leave()
  narrow.onDeliver = () => {
    narrow.hasRoom = false
    void turn(2).then(() => { narrow.hasRoom = true })
  }
  narrow.hasRoom = true
  await eventually(() => narrow.data.at(-1)?.trim() === '999')
  t.same(narrow.told, ['started'])
  const numbers = narrow.data.map(Number)
  t.same(numbers, [...numbers].sort((a, b) => a - b))
  t.same(numbers, Array.from({ length: 200 }, (_, i) => 800 + i), 'what is superseded is skipped, also after a pause')
  const { length } = leaving.data
  await turn(5)
  t.equal(leaving.data.length, length)
})

t.test('a subscriber that leaves with the first page after its gap is given nothing else', async t => {
  const { feed, publish } = await openFeed(t, { events: 300 })
  const client = new Client(feed)
  client.hasRoom = false
  for (let i = 0; i < 1000; i++) {
    await publish(String(i).padEnd(1000))
    if (i % 50 === 0) await turn()
  }
  client.onDeliver = () => { client.leave() }
  client.hasRoom = true
  await turn(10)
  t.match(client.told, ['started', { reason: 'slow' }])
  t.equal(client.batches.length, 1)
})

t.test('a subscriber of lag latest that leaves, or whose feed closes, while the second page is read is given nothing', async t => {
  for (const end of ['leave', 'close'] as const) {
    const answer = deferred()
    let reads = 0
    const broker = brokerWith(inner => ({
      read: async (channel, from, limit) => {
        const page = await inner.read(channel, from, limit)
        if (from !== 'live' && ++reads === 2) await answer.promise
        return page
      }
    }))
    const { feed } = await openFeed(t, {}, broker)
    const history = { ...defaults, events: 300, bytes: 1e9 }
    const client = new Client(feed)
    client.lag = 'latest'
    client.hasRoom = false
    for (let i = 0; i < 1000; i++) {
      await broker.publish('news', `1\nkdata: ${String(i).padEnd(1000)}\n`, { history })
      if (i % 50 === 0) await turn()
    }
    client.hasRoom = true
    await eventually(() => reads === 2)
    if (end === 'leave') client.leave()
    else feed.close()
    answer.resolve()
    await turn(5)
    t.same([client.data, client.told], [[], end === 'leave' ? ['started'] : ['started', 'closed']])
  }
})

t.test('a subscriber of lag latest is told of what was trimmed before this process has heard of it', async t => {
  let isDown = false
  const broker = brokerWith(inner => ({
    tail: async (channel, tail) => await inner.tail(channel, tailOf(event => { if (!isDown) tail.event(event) }))
  }))
  const { feed } = await openFeed(t, {}, broker)
  const publish = async (data: string) => await broker.publish('news', `1\nkdata: ${data}\n`, { history: { ...defaults, events: 2 } })
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  await publish('1')
  await turn()
  isDown = true
  for (let i = 2; i <= 10; i++) await publish(String(i))
  const behind = new Client(feed, { from: 'earliest' })
  behind.hasRoom = false
  await turn()
  t.same(behind.told, ['started'])
  behind.lag = 'latest'
  for (let i = 11; i <= 20; i++) await publish(String(i))
  behind.hasRoom = true
  await turn(5)
  t.match(behind.told, ['started', { reason: 'slow' }])
  t.same(behind.data, ['20'])
  isDown = false
  await publish('21')
  await eventually(() => behind.data.at(-1) === '21')
  client.hasRoom = true
  await eventually(() => client.data.at(-1) === '21')
})

t.test('a broker that is disrupted while the feed opens is read again before anybody starts or publishes', async t => {
  const opened = deferred()
  const tails: Tail[] = []
  const reads: unknown[] = []
  const broker = brokerWith(inner => ({
    tail: async (channel, tail) => {
      tails.push(tail)
      return await inner.tail(channel, tailOf(() => {}))
    },
    read: async (channel, from, limit) => {
      reads.push(from)
      const page = await inner.read(channel, from, limit)
      if (from === 'live') await opened.promise
      return page
    }
  }))
  const feed = new Feed(broker, 'news', 'Gfug6Z', defaults, noHost)
  t.teardown(() => { feed.close() })
  const client = new Client(feed)
  feed.whenOpen(() => { reads.push('published') })
  await turn()
  // Never told: only the log has it.
  const id = await broker.publish('news', '\ndata: 1\n')
  tails[0]?.disrupted()
  opened.resolve()
  await feed.opened
  await turn()
  t.equal(reads[0], 'live')
  t.equal(reads.length, 3)
  t.equal(reads[2], 'published')
  t.equal(client.cursor.position, id)
})

t.test('a subscriber that publishes while missed events are delivered gets every event once', async t => {
  let isDown = false
  let tail!: Tail
  const broker = brokerWith(inner => ({
    tail: async (channel, own) => {
      tail = own
      return await inner.tail(channel, tailOf(event => { if (!isDown) own.event(event) }))
    },
    read: async (...args) => {
      await turn()
      return await inner.read(...args)
    }
  }))
  const { feed, publish } = await openFeed(t, { events: 10_000 }, broker)
  const client = new Client(feed)
  await turn(2)
  let published = 0
  client.onDeliver = () => { if (published < 3) void publish(`own ${++published}`) }
  isDown = true
  for (let i = 0; i < 200; i++) await publish(`${i}`)
  isDown = false
  tail.disrupted()
  for (let i = 200; i < 1300; i++) void publish(`${i}`)
  await eventually(() => client.data.length >= 1303)
  await turn(10)
  t.equal(client.data.length, 1303)
  t.equal(new Set(client.data).size, 1303)
  t.same(client.told, ['started'])
})

t.test('a log that is ahead of what was told is read, without asking again and again', async t => {
  let reads = 0
  let isDown = false
  const broker = brokerWith(inner => ({
    tail: async (channel, own) => await inner.tail(channel, tailOf(event => { if (!isDown) own.event(event) })),
    read: async (...args) => {
      reads++
      return await inner.read(...args)
    }
  }))
  const { feed, publish } = await openFeed(t, {}, broker)
  const live = new Client(feed)
  await turn(2)
  isDown = true
  await publish('lost')
  const id = await publish('lost, too')
  t.same(live.data, [])
  reads = 0
  const other = new Client(feed, { from: id })
  await turn(20)
  t.same(live.data, ['lost', 'lost, too'])
  t.same(other.data, [])
  t.ok(reads <= 3, `${reads} reads`)
})

t.test('a reader that is ahead of its feed waits until that is told', async t => {
  const answer = deferred()
  let reads = 0
  let isDown = false
  const broker = brokerWith(inner => ({
    tail: async (channel, own) => await inner.tail(channel, tailOf(event => { if (!isDown) own.event(event) })),
    read: async (...args) => {
      const page = await inner.read(...args)
      // The first read is that of the reader, the second that of the feed.
      if (++reads === 2) await answer.promise
      return page
    }
  }))
  const { feed, publish } = await openFeed(t, {}, broker)
  isDown = true
  const id = await publish('lost')
  reads = 0
  const reader = new Client(feed, { from: id })
  await turn(20)
  t.ok(reads <= 3, `${reads} reads`)
  answer.resolve()
  await eventually(() => feed.end === 1)
  isDown = false
  await publish('next')
  await eventually(() => reader.data.length === 1)
  t.same(reader.data, ['next'])
})

t.test('a broker whose untail throws lets its channel close', async t => {
  const broker = brokerWith(() => ({ tail: async () => () => { throw new Error('no') } }))
  const { feed } = await openFeed(t, {}, broker)
  const client = new Client(feed)
  await turn(2)
  feed.close()
  await turn()
  t.same(client.told, ['started', 'closed'])
})

t.test('a subscriber that leaves, or whose feed closes, while a page is read is given nothing of it', async t => {
  for (const end of ['leave', 'close'] as const) {
    const answer = deferred()
    let reads = 0
    const broker = brokerWith(inner => ({
      read: async (channel, from, limit) => {
        const page = await inner.read(channel, from, limit)
        if (from !== 'live' && ++reads === 2) await answer.promise
        return page
      }
    }))
    const { feed, publish } = await openFeed(t, { events: 1000 }, broker)
    for (let i = 0; i < 700; i++) await publish(String(i))
    // Only now are they out of the window.
    await turn()
    const client = new Client(feed, { from: 'earliest' })
    await eventually(() => reads === 2)
    const { length } = client.data
    if (end === 'leave') client.leave()
    else feed.close()
    answer.resolve()
    await turn(5)
    t.equal(client.data.length, length)
    t.same(client.told, end === 'leave' ? ['started'] : ['started', 'closed'])
  }
})

t.test('a subscriber of lag latest that stops in the middle gets what comes meanwhile without a key, and the newest of each key', async t => {
  const bounds = { ...defaults, events: 300, bytes: 1e9 }
  const { feed, broker } = await openFeed(t, bounds)
  const publish = async (data: string, key = '') => {
    await broker.publish('news', `${key === '' ? '' : key.length}\n${key}data: ${data.padEnd(1000)}\n`, { history: bounds })
  }
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  for (let i = 0; i < 1000; i++) {
    await publish(String(i), `k${i % 200}`)
    if (i % 50 === 0) await turn()
  }
  const firstBatch = deferred()
  client.onDeliver = () => {
    client.hasRoom = false
    firstBatch.resolve()
  }
  client.hasRoom = true
  await firstBatch.promise
  client.onDeliver = () => {}
  await publish('unkeyed')
  await publish('new 999', 'k199')
  client.hasRoom = true
  await eventually(() => client.data.at(-1)?.trim() === 'new 999')
  const data = client.data.map(text => text.trim())
  t.same(data, [...Array.from({ length: 199 }, (_, i) => `${800 + i}`), 'unkeyed', 'new 999'])
  t.same(client.told, ['started'], 'nothing was lost')
})

t.test('a subscriber of lag latest that stops in the middle and leaves while it reads on is given nothing else', async t => {
  const bounds = { ...defaults, events: 300, bytes: 1e9 }
  const answer = deferred()
  let isHeld = false
  let held = 0
  const broker = brokerWith(inner => ({
    read: async (channel, from, limit) => {
      const page = await inner.read(channel, from, limit)
      if (isHeld) {
        held++
        await answer.promise
      }
      return page
    }
  }))
  const { feed } = await openFeed(t, bounds, broker)
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  for (let i = 0; i < 1000; i++) {
    const key = `k${100 + i % 200}`
    await broker.publish('news', `4\n${key}data: ${String(i).padEnd(1000)}\n`, { history: bounds })
    if (i % 50 === 0) await turn()
  }
  client.onDeliver = () => {
    isHeld = true
    client.hasRoom = false
  }
  client.hasRoom = true
  await eventually(() => isHeld)
  client.hasRoom = true
  await eventually(() => held === 1)
  client.leave()
  answer.resolve()
  await turn(5)
  t.equal(client.batches.length, 1)
})

t.test('a subscriber of lag latest that stops in the middle is told once of what has no key', async t => {
  const bounds = { ...defaults, events: 400, bytes: 1e9 }
  const { feed, broker } = await openFeed(t, bounds)
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  for (let i = 0; i < 1000; i++) {
    await broker.publish('news', `4\nk${100 + i % 200}data: ${String(i).padEnd(1000)}\n`, { history: bounds })
    await broker.publish('news', `\ndata: ${'no key'.padEnd(1000)}\n`, { history: bounds })
    if (i % 50 === 0) await turn()
  }
  client.onDeliver = () => {
    client.hasRoom = false
    void turn().then(() => { client.hasRoom = true })
  }
  client.hasRoom = true
  await eventually(() => client.data.at(-1)?.trim() === '999')
  t.same(client.data.map(Number), Array.from({ length: 200 }, (_, i) => 800 + i))
  t.match(client.told, ['started', { reason: 'slow' }])
})

t.test('a broker that answers with nothing, or with something else, is asked again later and later', async t => {
  for (const answer of [undefined, {}, { contiguous: true, base: '1', head: '1', events: [{}] }]) {
    for (const what of ['tail', 'read'] as const) {
      let asked = 0
      const broker = brokerWith(() => ({ [what]: async () => { asked++; return answer as never } }))
      const logged: unknown[] = []
      const channels = new Channels(broker, JSON.stringify, { info () {}, warn: details => { logged.push(details) } })
      t.teardown(() => channels.close())
      if (what === 'tail' && answer !== undefined) continue
      const clock = fakeClock(t)
      channels.channel('a', undefined).subscribe()
      await clock.tickAsync(1000)
      clock.uninstall()
      t.ok(asked > 1 && asked < 10, `${asked} asked`)
      t.match(logged, [{ err: TypeError }])
      channels.channel('a', undefined).close()
    }
  }
})

t.test('a subscriber of lag latest that stops in the middle and leaves without room is given nothing else', async t => {
  const bounds = { ...defaults, events: 300, bytes: 1e9 }
  const { feed, broker } = await openFeed(t, bounds)
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  for (let i = 0; i < 1000; i++) {
    await broker.publish('news', `4\nk${100 + i % 200}data: ${String(i).padEnd(1000)}\n`, { history: bounds })
    if (i % 50 === 0) await turn()
  }
  client.onDeliver = () => { client.hasRoom = false }
  client.hasRoom = true
  await eventually(() => client.batches.length === 1)
  client.leave()
  await turn(5)
  t.equal(client.batches.length, 1)
})

t.test('a subscriber of lag latest that falls out once more while it has no room is told once more', async t => {
  const bounds = { ...defaults, events: 300, bytes: 1e9 }
  const { feed, broker } = await openFeed(t, bounds)
  const publish = async (from: number, to: number) => {
    for (let i = from; i < to; i++) {
      await broker.publish('news', `\ndata: ${String(i).padEnd(1000)}\n`, { history: bounds })
      if (i % 50 === 0) await turn()
    }
  }
  const client = new Client(feed)
  client.lag = 'latest'
  client.hasRoom = false
  await broker.publish('news', `1\nkdata: ${'key'.padEnd(1000)}\n`, { history: bounds })
  for (const [from, to] of [[0, 1000], [1000, 2000]] as const) {
    await publish(from, to)
    for (let i = 0; i < 200; i++) await broker.publish('news', `4\nk${100 + i}data: ${String(to + i).padEnd(1000)}\n`, { history: bounds })
    if (to === 1000) {
      client.onDeliver = () => { client.hasRoom = false }
      client.hasRoom = true
      await turn(10)
      client.onDeliver = () => {}
    }
  }
  client.hasRoom = true
  await eventually(() => client.data.at(-1)?.trim() === '2199')
  t.match(client.told, ['started', { reason: 'slow' }, { reason: 'slow' }])
  const numbers = client.data.map(Number)
  t.same(numbers.slice(-200), Array.from({ length: 200 }, (_, i) => 2000 + i))
  t.same(numbers, [...numbers].sort((a, b) => a - b))
})

t.test('a replay of the newest ten of 5000 events reads only these', async t => {
  const bounds = { ...defaults, events: 5000, bytes: 1e9 }
  const read: unknown[] = []
  const broker = brokerWith(inner => ({
    read: async (channel, from, limit) => {
      const page = await inner.read(channel, from, limit)
      read.push(page.events.length)
      return page
    }
  }))
  const { feed, publish } = await openFeed(t, bounds, broker)
  for (let i = 0; i < 5000; i++) await publish(String(i))
  await turn()
  const client = new Client(feed, { from: 10 })
  const others = Array.from({ length: 100 }, () => new Client(feed, { from: 10 }))
  await eventually(() => client.data.length === 10)
  t.same(client.data, Array.from({ length: 10 }, (_, i) => `${4990 + i}`))
  await eventually(() => others.every(({ data }) => data.length === 10))
  for (const other of others) t.same(other.data, client.data)
  t.same(read, [0, 10], 'once for all')
})

t.test('publishers do not wait for a broker that never says whether it listens', async t => {
  for (const silent of ['tail', 'read'] as const) {
    const broker = brokerWith(() => ({ [silent]: async () => await new Promise<never>(() => {}) }))
    const channels = new Channels(broker, JSON.stringify)
    t.teardown(() => channels.close())
    const clock = fakeClock(t)
    const news = channels.channel('news', undefined)
    const iterator = news.subscribe()
    const published = [news.publish('1'), news.publish('2')]
    await clock.tickAsync(999)
    t.equal(await settles(Promise.race(published)), false)
    await clock.tickAsync(1)
    const ids = await Promise.all(published)
    t.equal(ids.length, 2)
    await news.publish('3')
    await iterator.return?.()
    clock.uninstall()
  }
})

t.test('a broker that gives no answer is logged once, and once more when it does, whatever the number of channels', async t => {
  let isDown = true
  const reads: string[] = []
  const broker = brokerWith(inner => ({
    tail: async (channel, tail) => {
      if (isDown) throw new Error('no answer')
      return await inner.tail(channel, tail)
    },
    read: async (channel, from, limit) => {
      reads.push(`${channel} ${from}`)
      if (isDown) throw new Error('no answer')
      return await inner.read(channel, from, limit)
    }
  }))
  const logged: unknown[] = []
  const channels = new Channels(broker, JSON.stringify, {
    info: message => { logged.push(message) },
    warn: (details, message) => { logged.push({ ...details, message }) }
  })
  t.teardown(() => channels.close())
  const clock = fakeClock(t)
  const iterators = ['a', 'b', 'c'].map(name => channels.channel(name, undefined).subscribe())
  await clock.tickAsync(20_000)
  t.match(logged, [{ err: { message: 'no answer' }, message: 'the broker gives no answer: subscribers wait' }])
  channels.channel('c', undefined).close()
  isDown = false
  await clock.tickAsync(5000)
  t.same(logged.slice(1), ['the broker answers again'])
  for (const iterator of iterators.slice(0, 2)) t.match(await iterator.next(), { value: { type: 'position' } })
  // One that has all, and whose log is not answered for, is read for again by one.
  isDown = true
  const late = Array.from({ length: 50 }, () => channels.channel('a', undefined).subscribe({ replay: 'all' }))
  reads.length = 0
  await clock.tickAsync(20_000)
  t.ok(reads.length > 3 && reads.length < 15, `${reads.length} reads`)
  t.equal(logged.length, 3)
  for (const iterator of late) await iterator.return?.()
  reads.length = 0
  await clock.tickAsync(20_000)
  t.ok(reads.length <= 1, 'nobody waits for it')
  channels.channel('a', undefined).close()
  t.equal(logged.length, 3, 'whether it answers is not known')
  // One channel has an answer, and then the other one closes.
  let isDeaf = true
  const outage = brokerWith(inner => ({
    tail: async (channel, tail) => {
      if (isDeaf || channel === 'b') throw new Error('no answer')
      return await inner.tail(channel, tail)
    }
  }))
  const others = new Channels(outage, JSON.stringify, { info: message => { logged.push(message) }, warn: (_details, message) => { logged.push(message) } })
  for (const name of ['a', 'b']) others.channel(name, undefined).subscribe()
  await clock.tickAsync(1000)
  isDeaf = false
  await clock.tickAsync(5000)
  t.same(logged.slice(3), ['the broker gives no answer: subscribers wait'])
  others.channel('b', undefined).close()
  t.same(logged.slice(4), ['the broker answers again'])
  await others.close()
})

t.test('a broker that its owner closes ends those who follow, and those who come later', async t => {
  const broker = brokerWith()
  const channels = new Channels(broker, JSON.stringify)
  t.teardown(() => channels.close())
  const news = channels.channel('news', undefined)
  const iterator = news.subscribe()
  await iterator.next()
  const next = iterator.next()
  await broker.close()
  t.same(await next, { done: true, value: undefined })
  const late = news.subscribe({ replay: 'all' })
  t.same(await late.next(), { done: true, value: undefined })
  t.equal(news.size, 0)
})

t.test('one that falls out after a resync that moved the window is slow, as one that falls out at any other time', async t => {
  const line = brokerOnALine()
  const { feed, publish } = await openFeed(t, { events: 1000 }, line.broker)
  const client = new Client(feed)
  client.lag = 'disconnect'
  line.isDeaf = true
  for (let i = 0; i < 300; i++) await publish(String(i))
  line.isDeaf = false
  line.tail.disrupted()
  client.onDeliver = () => { client.hasRoom = false }
  await eventually(() => client.data.length > 0)
  for (let i = 0; i < 3000; i++) {
    await publish('x'.repeat(400))
    if (i % 50 === 0) await turn()
  }
  client.onDeliver = () => {}
  client.hasRoom = true
  await turn(10)
  t.same(client.told, ['started', 'lagged'])
})

t.test('subscribers that stop while they catch up hold no events that the log has dropped', async t => {
  v8.setFlagsFromString('--expose-gc')
  const gc = vm.runInNewContext('gc') as () => void
  for (const lag of ['gap', 'latest'] as const) {
    const bounds = { ...defaults, events: 1000, bytes: 1e9 }
    const read: Array<WeakRef<Stored>> = []
    let isNoted = false
    const broker = brokerWith(inner => ({
      read: async (channel, from, limit) => {
        const page = await inner.read(channel, from, limit)
        if (isNoted) read.push(...page.events.map(event => new WeakRef(event)))
        return page
      }
    }))
    const { feed } = await openFeed(t, bounds, broker)
    const publish = async (count: number) => {
      for (let i = 0; i < count; i++) {
        await broker.publish('news', `4\nk${100 + i % 800}data: ${String(i).padEnd(1000)}\n`, { history: bounds })
        if (i % 50 === 0) await turn()
      }
    }
    const clients = Array.from({ length: 5 }, () => new Client(feed))
    for (const client of clients) {
      client.lag = lag
      client.hasRoom = false
    }
    await publish(1500)
    isNoted = true
    for (const client of clients) {
      client.onDeliver = () => { client.hasRoom = false }
      client.hasRoom = true
    }
    await eventually(() => clients.every(client => client.batches.length > 0))
    for (const client of clients) client.batches.length = 0
    isNoted = false
    await publish(1500)
    const logged = new Set((await broker.read('news', 'earliest', 10_000)).events)
    // Pages that are kept for all are forgotten after a while.
    const deadline = performance.now() + 5000
    const isHeld = (ref: WeakRef<Stored>) => {
      const event = ref.deref()
      return event !== undefined && !logged.has(event)
    }
    do {
      await new Promise(resolve => setTimeout(resolve, 20))
      gc()
    } while (read.some(isHeld) && performance.now() < deadline)
    t.ok(read.length > 0)
    t.equal(read.filter(isHeld).length, 0)
    for (const client of clients) client.leave()
  }
})

t.test('what is told while the log is read is kept up to 1 MiB: more of it is read again', async t => {
  const answer = deferred()
  const line = brokerOnALine()
  const { feed, publish } = await openFeed(t, {}, line.broker)
  const client = new Client(feed)
  line.held = answer.promise
  line.tail.disrupted()
  for (let i = 0; i < 5; i++) await publish(`${i} ${'x'.repeat(500_000)}`)
  line.held = undefined
  answer.resolve()
  await eventually(() => client.data.length > 0 && client.data.at(-1)?.startsWith('4 ') === true)
  t.match(client.told[0], 'started')
})
