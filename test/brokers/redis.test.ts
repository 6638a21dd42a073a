import '../fixtures/guard.ts'
import { EventEmitter } from 'node:events'
import t, { type Test } from 'tap'
import { redisBroker, type RedisBrokerOptions } from '../../lib/brokers/redis.ts'
import { RedisBroker } from '../../lib/brokers/redis/redis-broker.ts'
import { publishScript } from '../../lib/brokers/redis/scripts.ts'
import { createChannels, type Broker } from '../../lib/index.ts'
import { brokerHistory, history, retained } from '../fixtures/broker-history.ts'
import { deferred, eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { Reader } from '../fixtures/reader.ts'
import { clients, newestClients, type ConnectedClient } from '../fixtures/redis-clients.ts'
import { hasRedis, RedisProxy, RedisServer } from '../fixtures/redis-server.ts'
import { tailOf } from '../fixtures/tail.ts'

const skip = !hasRedis && 'there is no redis-server'

const server = new RedisServer()
t.before(async () => { if (!skip) await server.start() })
t.teardown(() => server.remove())

async function connect (name = 'ioredis 6', options?: object, socket = server.socket): Promise<ConnectedClient> {
  return await (clients[name] as (typeof clients)[string])(socket, options)
}

interface Opened {
  broker: RedisBroker
  client: ConnectedClient
}

/** A broker with nothing in its logs; closed with its client when the test ends. */
async function open (t: Test, options: Partial<RedisBrokerOptions> = {}, { name, socket, probeTimes, settings }: { name?: string, socket?: string, probeTimes?: [number, number], settings?: object } = {}): Promise<Opened> {
  const client = await connect(name, settings, socket)
  await client.command('FLUSHALL')
  const broker = new RedisBroker({ client: client.client, ...options }, probeTimes)
  t.teardown(async () => {
    await broker.close()
    await client.close()
  })
  return { broker, client }
}

const unavailable = { code: 'FST_STREAM_BROKER_UNAVAILABLE', statusCode: 503 }
const base = (channel = 'a', prefix = 'fastify-streaming') => `{${prefix}:${channel}}`

t.test('histories', { skip }, async t => {
  brokerHistory(t, async t => (await open(t)).broker)

  t.test('an event is forgotten when its time is over, also while newer ones are kept, and the position after it is known', async t => {
    const { broker } = await open(t)
    const short = history({ age: 800 })
    const first = Date.now()
    const old = await broker.publish('a', '1', { history: short })
    while (Date.now() < first + 400) await turn()
    const id = await broker.publish('a', '2', { history: short })
    while ((await retained(broker)).length === 2) await turn()
    t.ok(Date.now() - first >= 799)
    t.same(await retained(broker), ['2'])
    t.match(await broker.read('a', old, 10), { contiguous: true, events: [{ id, data: '2' }] })
    while ((await retained(broker)).length === 1) await turn()
    t.same(await broker.read('a', id, 10), { contiguous: true, base: id, events: [], head: id })
    t.match(await broker.read('a', old, 10), { contiguous: false, base: id })
    // Its keys have no other end.
    t.match(await broker.publish('a', '3'), /./)
    t.same(await retained(broker), ['3'])
  })

  t.test('every key has an end: events by their age, the head so much later as `retention` says', async t => {
    const { broker, client } = await open(t, { retention: 200_000 })
    await broker.publish('a', '1', { dedupe: 'k', history: history({ age: 100_000 }) })
    await broker.read('b', 'live', 1)
    const ends: Record<string, number> = {}
    for (const key of await client.command('KEYS', '*') as string[]) {
      ends[key.replace(/:w:[0-9a-f]{16}$/, ':w:')] = Number(await client.command('PTTL', key))
    }
    t.same(Object.keys(ends).sort(), [`${base()}:k:k`, `${base()}:m`, `${base()}:s`, `${base()}:w:`, `${base('b')}:m`])
    const about = (key: string, expected: number) => {
      const end = ends[key] as number
      t.ok(end <= expected && end > expected - 10_000, `${key}: ${end}`)
    }
    about(`${base()}:s`, 100_000)
    about(`${base()}:k:k`, 100_000)
    about(`${base()}:m`, 300_000)
    about(`${base()}:w:`, 600_000)
    about(`${base('b')}:m`, 500_000)
    // Asking for the head is a sign of life, also of a channel in which nothing happens.
    await client.command('PEXPIRE', `${base('b')}:m`, '1000')
    await broker.read('b', 'live', 1)
    t.ok(Number(await client.command('PTTL', `${base('b')}:m`)) > 400_000)
  })

  t.test('a key is known for as long as its event is retained, also when that becomes longer', async t => {
    const { broker } = await open(t)
    const first = await broker.publish('a', '1', { dedupe: 'k', history: history({ age: 200 }) })
    const longer = { dedupe: 'k', history: history({ age: 300_000 }) }
    t.equal(await broker.publish('a', '1', longer), first)
    const start = Date.now()
    while (Date.now() < start + 250) await turn()
    t.equal(await broker.publish('a', '1', longer), first)
  })

  t.test('a log that has lost its hash keeps its events until it is published to', async t => {
    const { broker, client } = await open(t)
    const large = history({ events: 1000 })
    await Promise.all(Array.from({ length: 600 }, (_, i) => broker.publish('a', String(i), { history: large })))
    await client.command('DEL', `${base()}:m`)
    for (let i = 0; i < 3; i++) t.equal((await retained(broker)).length, 600)
    await broker.publish('a', '600', { history: large })
    t.equal((await retained(broker)).length, 601)
  })

  t.test('a log that has lost its hash and its events begins anew, although the clock has stepped back', async t => {
    const { broker, client } = await open(t)
    await client.command('XADD', `${base()}:s`, '9999999999999-5', 'p', 'x', 'x', '1'.repeat(17), 'd', '2')
    await client.command('XTRIM', `${base()}:s`, 'MAXLEN', '0')
    const id = await broker.publish('a', '1')
    t.match(await broker.read('a', 'earliest', 10), { events: [{ id, data: '1' }] })
  })

  t.test('a page has at most `pageSize` events, and ends after 1 MiB', async t => {
    const { broker } = await open(t, { pageSize: 120 })
    const large = history({ events: 10_000, bytes: 1e9 })
    await Promise.all(Array.from({ length: 300 }, (_, i) => broker.publish('a', String(i), { history: large })))
    t.equal((await broker.read('a', 'earliest', 256)).events.length, 120)
    t.equal((await broker.read('a', 299, 256)).events.length, 120)
    t.same((await retained(broker)).length, 300)
    for (let i = 0; i < 5; i++) await broker.publish('b', 'x'.repeat(400_000), { history: large })
    t.equal((await broker.read('b', 'earliest', 256)).events.length, 3)
    t.equal((await broker.read('b', 4, 256)).events.length, 3)
  })
})

t.test('the log', { skip }, async t => {
  t.test('a call that comes again, because the answer was lost, appends nothing and gives the same ids; an older one gives none', async t => {
    const { broker, client } = await open(t)
    const publish = async (number: string, ...events: string[]) => await client.command(
      'EVAL', publishScript.text, '3', `${base()}:s`, `${base()}:m`, `${base()}:w:me`, number, `${'0'.repeat(16)}${number}`, base(), '1000000', '600000', '', '', '',
      ...events.flatMap(data => ['0', String(data.length), data])
    )
    const ids = await publish('7', 'one', 'two')
    t.match(ids, /^\d+-\d+-0{16}7 \d+-\d+-0{16}7$/)
    t.equal(await publish('7', 'one', 'two'), ids)
    t.match(await publish('8', 'three'), /^\d+-\d+-0{16}8$/)
    t.equal(await publish('7', 'one', 'two'), '')
    t.same(await retained(broker), ['one', 'two', 'three'])
  })

  t.test('a position whose number was given again after a loss is none of this log', async t => {
    const { broker, client } = await open(t)
    const old = await broker.publish('a', 'old')
    await client.command('DEL', `${base()}:s`, `${base()}:m`)
    // The same millisecond and number, of another log.
    const [ms, number] = old.split('-') as [string, string]
    await client.command('XADD', `${base()}:s`, `${ms}-${number}`, 'p', `${ms}-0-${'1'.repeat(17)}`, 'x', '2'.repeat(17), 'd', 'new')
    const { contiguous, events: [event], base: before } = await broker.read('a', old, 10)
    t.equal(contiguous, false)
    t.match(event, { id: `${ms}-${number}-${'2'.repeat(17)}`, data: 'new' })
    t.equal(before, `${ms}-0-${'1'.repeat(17)}`)
    t.not(broker.compare(old, event?.id as string), 0)
    t.equal(Math.sign(broker.compare(old, event?.id as string)), -Math.sign(broker.compare(event?.id as string, old)))
  })

  t.test('ids rise although the clock of the server has stepped back', async t => {
    const { broker, client } = await open(t)
    await broker.publish('a', '1')
    const future = `9999999999999-5-${'1'.repeat(17)}`
    await client.command('HSET', `${base()}:m`, 'head', future)
    await client.command('XADD', `${base()}:s`, '9999999999999-5', 'p', 'x', 'x', '1'.repeat(17), 'd', '2')
    const id = await broker.publish('a', '3')
    t.match(id, /^9999999999999-6-/)
    t.match(await broker.read('a', future, 10), { contiguous: true, events: [{ id, previous: future }] })
  })

  t.test('publishes of one turn go in few calls, in order, and each event is announced', async t => {
    const { broker, client } = await open(t)
    const told: string[] = []
    await broker.tail('a', tailOf(({ data }) => { told.push(data) }))
    await client.command('CONFIG', 'RESETSTAT')
    const all = Array.from({ length: 200 }, (_, i) => String(i))
    await Promise.all(all.map(data => broker.publish('a', data)))
    await eventually(() => told.length === 200)
    t.same(told, all)
    const calls = /cmdstat_evalsha:calls=(\d+)/.exec(String(await client.command('INFO', 'commandstats')))?.[1]
    t.ok(Number(calls) <= 4, `${calls} calls`)
  })

  t.test('large events of one turn do not go in one call', async t => {
    const { broker } = await open(t)
    const all = Array.from({ length: 6 }, (_, i) => String(i).padEnd(200_000))
    await Promise.all(all.map(data => broker.publish('a', data, { history: history({ bytes: 1e8 }) })))
    t.same(await retained(broker), all)
  })

  t.test('two applications with prefixes of their own do not see each other', async t => {
    const { broker, client } = await open(t, { prefix: 'one' })
    const other = redisBroker({ client: client.client, prefix: 'two' })
    t.teardown(() => other.close())
    await other.tail('a', tailOf(() => t.fail('told')))
    await broker.publish('a', 'x')
    t.same(await retained(other), [])
    t.same(await retained(broker), ['x'])
  })

  t.test('a keyPrefix of ioredis is no trouble', async t => {
    const { broker, client } = await open(t, {}, { settings: { keyPrefix: 'mine:' } })
    const told: string[] = []
    await broker.tail('a', tailOf(({ data }) => { told.push(data) }))
    await broker.publish('a', 'x', { dedupe: 'k' })
    await eventually(() => told.length === 1)
    t.same(await retained(broker), ['x'])
    t.same((await client.command('KEYS', '*') as string[]).filter(key => !key.startsWith('mine:')), [])
  })

  t.test('a client that gives buffers is no trouble', async t => {
    const { broker } = await open(t, {}, { name: 'redis 6', settings: { commandOptions: { typeMapping: { 36: Buffer } } } })
    const id = await broker.publish('a', 'ä')
    t.match(await broker.read('a', 'earliest', 1), { events: [{ id, data: 'ä' }], head: id })
  })
})

t.test('the connection that listens', { skip }, async t => {
  /** How many connections of the server do. */
  const listening = async ({ command }: ConnectedClient) => String(await command('CLIENT', 'LIST', 'TYPE', 'pubsub')).split('\n').filter(line => line.startsWith('id=')).length

  for (const name of [...newestClients, 'redis 4']) {
    t.test(`there is one a process while it follows anything, and none for who only publishes (${name})`, async t => {
      const { broker, client } = await open(t, {}, { name })
      await broker.publish('a', 'x')
      t.equal(await listening(client), 0)
      const untails = await Promise.all(['a', 'b', 'c', 'a'].map(async channel => await broker.tail(channel, tailOf(() => {}))))
      t.equal(await listening(client), 1)
      for (const untail of untails.slice(1)) await untail()
      t.equal(await listening(client), 1)
      await untails[0]?.()
      while (await listening(client) > 0) await turn()
      const told = deferred()
      await broker.tail('a', tailOf(() => { told.resolve() }))
      await broker.publish('a', 'x')
      await told.promise
      t.equal(await listening(client), 1)
      await broker.close()
      while (await listening(client) > 0) await turn()
      t.equal(await client.command('PING'), 'PONG', 'the client stays open')
    })

    t.test(`what was published while it was lost comes when it is back, although nothing follows (${name})`, async t => {
      const { broker, client } = await open(t, {}, { name })
      const reader = follow(t, broker)
      await eventually(() => reader.items.length === 1)
      const channels = createChannels({ broker })
      await client.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await channels.channel('a').publish('x')
      await eventually(() => reader.data.length === 1)
      t.same(reader.types, ['position', 'event'])
    })

    t.test(`one that was given is used, and left open (${name})`, async t => {
      const subscriber = await connect(name)
      t.teardown(() => subscriber.close())
      const { broker, client } = await open(t, { subscriber: subscriber.client }, { name })
      const told: string[] = []
      const untail = await broker.tail('a', tailOf(({ data }) => { told.push(data) }))
      await broker.publish('a', 'x')
      await eventually(() => told.length === 1)
      t.equal(await listening(client), 1)
      await untail()
      while (await listening(client) > 0) await turn()
      await broker.close()
      t.equal(String(await client.command('CLIENT', 'LIST')).split('\n').filter(line => line.startsWith('id=')).length, 2)
    })
  }

  t.test('one that was given is told to forget what was followed when the broker is closed', async t => {
    const subscriber = await connect()
    t.teardown(() => subscriber.close())
    const { broker, client } = await open(t, { subscriber: subscriber.client })
    for (const channel of ['a', 'b']) await broker.tail(channel, tailOf(() => {}))
    await broker.close()
    while ((await client.command('PUBSUB', 'CHANNELS') as string[]).length > 0) await turn()
    t.equal(await listening(client), 0)
  })

  t.test('one that was given is not asked for anything when the broker is closed at once', async t => {
    const subscriber = await connect()
    t.teardown(() => subscriber.close())
    const { broker, client } = await open(t, { subscriber: subscriber.client })
    const tail = broker.tail('a', tailOf(() => {}))
    await broker.close()
    await t.rejects(tail, { code: 'FST_STREAM_CLOSED' })
    t.equal(await listening(client), 0)
  })

  t.test('a channel that is left and taken up again at once is followed', async t => {
    const { broker } = await open(t)
    await broker.tail('other', tailOf(() => {}))
    for (let i = 0; i < 20; i++) {
      const untail = await broker.tail('a', tailOf(() => {}))
      const told = deferred<string>()
      const left = untail()
      const again = broker.tail('a', tailOf(({ data }) => { told.resolve(data) }))
      await left
      const end = await again
      await broker.publish('a', String(i))
      t.equal(await told.promise, String(i))
      await end()
    }
  })

  for (const name of newestClients) {
    t.test(`a connection that was lost is asked for what is followed then, and for nothing else (${name})`, async t => {
      const { broker, client } = await open(t, {}, { name, probeTimes: [20, 30] })
      const untails = []
      for (const channel of ['a', 'b', 'c']) untails.push(await broker.tail(channel, tailOf(() => {})))
      const id = async () => /^id=(\d+)/.exec(String(await client.command('CLIENT', 'LIST', 'TYPE', 'pubsub')))?.[1]
      const first = await id()
      await client.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
      for (const untail of untails.slice(1)) await untail()
      const topics = async () => (await client.command('PUBSUB', 'CHANNELS') as string[]).map(topic => topic.replace(/[0-9a-f]{16}$/, '')).sort().join()
      while (await topics() !== `fastify-streaming:own:,${base('a')}`) await turn()
      const second = await id()
      t.not(second, first)
      const numbers = async () => Number(/cmdstat_publish:calls=(\d+)/.exec(String(await client.command('INFO', 'commandstats')))?.[1] ?? 0)
      const probes = await numbers()
      while (await numbers() < probes + 3) await turn()
      t.equal(await id(), second, 'its probes are heard')
    })
  }

  t.test('a tail that begins while another one of its channel ends is told', async t => {
    const { broker } = await open(t)
    for (let turns = 0; turns < 12; turns++) {
      const told = deferred()
      const first = broker.tail('a', tailOf(() => {}))
      const second = broker.tail('a', tailOf(() => { told.resolve() }))
      const untail = await first
      for (let i = 0; i < turns; i++) await null
      await untail()
      const end = await second
      await broker.publish('a', 'x')
      await told.promise
      await end()
    }
  })

  t.test('two thousand channels are followed over one connection, and left', async t => {
    const { broker, client } = await open(t)
    const untails = await Promise.all(Array.from({ length: 2100 }, (_, i) => broker.tail(`${i}`, tailOf(() => {}))))
    t.equal((await client.command('PUBSUB', 'CHANNELS') as string[]).length, 2101)
    for (const untail of untails.slice(1)) void untail()
    while ((await client.command('PUBSUB', 'CHANNELS') as string[]).length > 2) await turn()
    t.equal(await listening(client), 1)
  })

  t.test('something else that is sent on its topic makes subscribers read again, and is not seen', async t => {
    const { broker, client } = await open(t)
    const reader = follow(t, broker)
    await eventually(() => reader.items.length === 1)
    for (const text of ['', 'garbage', '1-1-x 1-0-x 99\nshort', '1-1-x 1-0-x 1\nxx']) await client.command('PUBLISH', base(), text)
    await createChannels({ broker }).channel('a').publish('x')
    await eventually(() => reader.data.length === 1)
    t.same(reader.types, ['position', 'event'])
  })

  t.test('one that is half open is found out and replaced', async t => {
    const proxy = new RedisProxy(server.socket)
    t.teardown(() => proxy.close())
    await proxy.listen()
    const { broker } = await open(t, { publishTimeout: 100 }, { socket: proxy.socket, probeTimes: [20, 30] })
    const reader = follow(t, broker)
    await eventually(() => reader.items.length === 1)
    proxy.hold(proxy.connections - 1)
    await createChannels({ broker }).channel('a').publish('x')
    await eventually(() => reader.data.length === 1)
    t.same(reader.types, ['position', 'event'])
  })

  t.test('one that was given and is half open cannot be replaced: subscribers read now and then', async t => {
    const proxy = new RedisProxy(server.socket)
    t.teardown(() => proxy.close())
    await proxy.listen()
    const subscriber = await connect('ioredis 6', {}, proxy.socket)
    t.teardown(() => subscriber.close())
    const { broker } = await open(t, { publishTimeout: 100, subscriber: subscriber.client }, { probeTimes: [20, 30] })
    const reader = follow(t, broker)
    await eventually(() => reader.items.length === 1)
    proxy.hold(0)
    await createChannels({ broker }).channel('a').publish('x')
    await eventually(() => reader.data.length === 1)
    t.same(reader.types, ['position', 'event'])
  })

  t.test('an announcement that got lost is found out by a look at the head', async t => {
    const { broker, client } = await open(t, {}, { probeTimes: [20, 30] })
    const reader = follow(t, broker)
    await eventually(() => reader.items.length === 1)
    const stored = '\ndata: x\n'
    await client.command(
      'EVAL', publishScript.text, '3', `${base()}:s`, `${base()}:m`, `${base()}:w:me`, '1', '0'.repeat(17), 'nobody', '1000000', '600000', '', '', '', '0', String(stored.length), stored
    )
    await eventually(() => reader.data.length === 1)
    t.same(reader.data, ['x'])
    t.same(reader.types, ['position', 'event'])
  })

  t.test('a look at the head disturbs nobody while nothing is lost', async t => {
    const { broker, client } = await open(t, {}, { probeTimes: [5, 6] })
    const disturbed: number[] = []
    await broker.tail('a', tailOf(() => {}, { disrupted: () => { disturbed.push(1) } }))
    await client.command('CONFIG', 'RESETSTAT')
    const looks = async () => Number(/cmdstat_evalsha:calls=(\d+)/.exec(String(await client.command('INFO', 'commandstats')))?.[1] ?? 0)
    while (await looks() < 10) await turn()
    t.ok(disturbed.length <= 1, `${disturbed.length} times`)
  })

  t.test('a server that refuses the subscription is told of, and asked again', async t => {
    const own = new RedisServer()
    t.teardown(() => own.remove())
    await own.start()
    const { broker, client } = await open(t, {}, { socket: own.socket })
    await client.command('ACL', 'SETUSER', 'default', '-subscribe')
    await t.rejects(broker.tail('a', tailOf(() => {})), { ...unavailable, message: /NOPERM/ })
    await client.command('ACL', 'SETUSER', 'default', '+subscribe')
    const told = deferred()
    await broker.tail('a', tailOf(() => { told.resolve() }))
    await broker.publish('a', 'x')
    await told.promise
  })

  t.test('whoever follows what the server refuses later is told when it no longer does', async t => {
    const own = new RedisServer()
    t.teardown(() => own.remove())
    await own.start()
    const { broker, client } = await open(t, {}, { socket: own.socket })
    const reader = follow(t, broker)
    await eventually(() => reader.items.length === 1)
    await client.command('ACL', 'SETUSER', 'default', '-subscribe')
    await client.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await createChannels({ broker }).channel('a').publish('x')
    await client.command('ACL', 'SETUSER', 'default', '+subscribe')
    await eventually(() => reader.data.length === 1)
    t.same(reader.types, ['position', 'event'])
  })

  t.test('a tail does not wait for a server that is away: it is told when it is back', async t => {
    const own = new RedisServer()
    t.teardown(() => own.remove())
    await own.start()
    const { broker } = await open(t, { publishTimeout: 200 }, { socket: own.socket })
    await broker.publish('a', '0')
    await own.kill()
    const disturbed = deferred()
    await broker.tail('a', tailOf(() => {}, { disrupted: () => { disturbed.resolve() } }))
    await own.start()
    await disturbed.promise
    t.pass('told')
  })
})

t.test('a connection of which a test has both ends', async t => {
  /** What a client of ioredis is to a broker. */
  class Client extends EventEmitter {
    status = 'ready'
    readonly calls: string[][] = []
    answer: (...command: string[]) => Promise<unknown> = async () => ''
    async call (...command: string[]): Promise<unknown> {
      this.calls.push(command)
      return await this.answer(...command)
    }

    async subscribe (): Promise<void> {}
    async unsubscribe (): Promise<void> {}
    duplicate (): void {}
    disconnect (): void {}
  }

  const openClient = (t: Test) => {
    const clock = fakeClock(t)
    const [client, subscriber] = [new Client(), new Client()]
    const broker = new RedisBroker({ client: client as never, subscriber: subscriber as never, publishTimeout: 50 }, [6, 6])
    t.teardown(() => broker.close())
    const disturbed: number[] = []
    const told: string[] = []
    const tail = tailOf(({ data }) => { told.push(data) }, { disrupted: () => { disturbed.push(performance.now()) } })
    return { clock, client, subscriber, broker, tail, told, disturbed, start: performance.now() }
  }

  t.test('what comes on a topic that was left is for nobody', async t => {
    const { broker, subscriber, tail, told } = openClient(t)
    await broker.tail('b', tail)
    await (await broker.tail('a', tail))()
    for (const channel of ['a', 'b']) subscriber.emit('message', base(channel), `1-1-x 1-0-x 1\n${channel}`)
    t.same(told, ['b'])
  })

  t.test('probes go on after one that could not be sent', async t => {
    const { clock, broker, client, tail, disturbed } = openClient(t)
    client.answer = async () => { throw new Error('no connection') }
    await broker.tail('a', tail)
    await clock.tickAsync(6)
    await clock.tickAsync(6)
    t.same(client.calls.map(([name, , number]) => [name, number]), [['PUBLISH', '1'], ['PUBLISH', '2']])
    await clock.tickAsync(100)
    t.same(disturbed, [])
  })

  t.test('a probe that is not heard disturbs, unless the connection has come back meanwhile', async t => {
    const { clock, broker, client, subscriber, tail, disturbed, start } = openClient(t)
    await broker.tail('a', tail)
    await clock.tickAsync(10)
    t.equal(client.calls.length, 1)
    subscriber.emit('ready')
    await clock.tickAsync(56)
    t.same(disturbed.map(time => time - start), [10, 66])
  })

  t.test('a probe that is heard disturbs nobody', async t => {
    const { clock, broker, client, subscriber, tail, disturbed } = openClient(t)
    client.answer = async (name, topic, number) => { if (name === 'PUBLISH') subscriber.emit('message', topic, number) }
    await broker.tail('a', tail)
    await clock.tickAsync(6)
    await clock.tickAsync(100)
    t.same(disturbed, [])
  })

  t.test('while the server refuses subscriptions, whoever follows is disturbed each second', async t => {
    const { clock, broker, client, subscriber, tail, disturbed, start } = openClient(t)
    // Its probes are heard, so they disturb nobody.
    client.answer = async (name, topic, number) => { if (name === 'PUBLISH') subscriber.emit('message', topic, number) }
    await broker.tail('a', tail)
    let asked = 0
    subscriber.subscribe = async () => { if (++asked <= 3) throw new Error('NOPERM') }
    subscriber.emit('ready')
    await clock.tickAsync(2999)
    t.same(disturbed.map(time => time - start), [0, 1000, 2000])
    // It no longer refuses, which is told as well.
    await clock.tickAsync(3000)
    t.same(disturbed.map(time => time - start), [0, 1000, 2000, 3000])
    t.equal(asked, 4)
  })

  t.test('what is asked while the client connects goes out when it is ready', async t => {
    const { broker, client } = openClient(t)
    client.answer = async name => name === 'EVALSHA' ? '1-1-me' : ''
    client.status = 'connecting'
    const published = broker.publish('a', 'x')
    await turn(3)
    t.same(client.calls, [])
    client.status = 'ready'
    client.emit('ready')
    t.equal(await published, '1-1-me')
  })

  t.test('a client that becomes ready when the time of a call is over is asked by the next one', async t => {
    const { clock, broker, client } = openClient(t)
    client.answer = async name => name === 'EVALSHA' ? '1-1-me' : ''
    client.status = 'connecting'
    const late = t.rejects(broker.publish('a', 'x'), unavailable)
    await clock.tickAsync(49)
    client.status = 'ready'
    client.emit('ready')
    clock.tick(1)
    await late
    t.equal(await broker.publish('b', 'x'), '1-1-me')
  })

  t.test('a script is not sent again as a text when nobody waits for it any more', async t => {
    const { clock, broker, client } = openClient(t)
    const answer = deferred<string>()
    client.answer = async () => await answer.promise
    const published = t.rejects(broker.read('a', 'live', 1), unavailable)
    await clock.tickAsync(50)
    await published
    answer.reject(new Error('NOSCRIPT'))
    await turn(3)
    t.same(client.calls.map(([name]) => name), ['EVALSHA'])
  })

  t.test('a connection that fails while it is left is no trouble', async t => {
    const { broker, subscriber, tail } = openClient(t)
    subscriber.unsubscribe = async () => { throw new Error('closed') }
    await broker.tail('a', tail)
    await broker.close()
    t.equal(subscriber.listenerCount('ready'), 0)
    t.equal(subscriber.listenerCount('message'), 0)
  })

  t.test('a script that the server has forgotten goes with its text', async t => {
    const { broker, client } = openClient(t)
    client.answer = async name => {
      if (name === 'EVALSHA') throw new Error('NOSCRIPT No matching script.')
      return '1-1-me'
    }
    t.equal(await broker.publish('a', 'x'), '1-1-me')
    t.same(client.calls.map(([name]) => name), ['EVALSHA', 'EVAL'])
  })

  t.test('a server that is loading its data is asked again; one that says no is not', async t => {
    const { clock, broker, client } = openClient(t)
    const answers = ['LOADING Redis is loading the dataset in memory', 'Connection is closed.', 'OOM command not allowed']
    client.answer = async () => { throw new Error(answers.shift()) }
    const published = t.rejects(broker.publish('a', 'x'), { ...unavailable, message: 'The broker is unavailable: OOM command not allowed' })
    await turn()
    await clock.tickAsync(49)
    await published
    t.equal(client.calls.length, 3)
  })
})

t.test('an outage', { skip }, async t => {
  const openOwn = async (t: Test, options: Partial<RedisBrokerOptions>, name?: string) => {
    const own = new RedisServer()
    t.teardown(() => own.remove())
    await own.start()
    return { own, ...await open(t, options, { name, socket: own.socket }) }
  }

  for (const name of newestClients) {
    t.test(`what is published while the server restarts is logged once, in order (${name})`, async t => {
      const { own, broker } = await openOwn(t, { publishTimeout: 10_000 }, name)
      await broker.publish('a', '0')
      await own.kill()
      const published = ['1', '2', '3', '4'].map(data => broker.publish('a', data))
      await own.start()
      await Promise.all(published)
      t.same(await retained(broker), ['1', '2', '3', '4'])
    })

    t.test(`publish and read reject in time while the server stands still, and hardly anything waits for it (${name})`, async t => {
      const { own, broker, client } = await openOwn(t, { publishTimeout: 100 }, name)
      await broker.publish('a', '0')
      own.pause(true)
      for (let i = 0; i < 3; i++) {
        const start = performance.now()
        const asked = [...Array.from({ length: 50 }, (_, j) => broker.publish('a', `${i}/${j}`)), ...Array.from({ length: 50 }, () => broker.read('b', 'live', 1))]
        for (const { status, reason } of await Promise.allSettled(asked) as PromiseRejectedResult[]) {
          t.equal(status, 'rejected')
          t.match(reason, { ...unavailable, message: /within 100 ms/ })
        }
        t.ok(performance.now() - start < 1000)
      }
      own.pause(false)
      // On a machine that is busy, a tenth of a second may not be enough for the first.
      while (await broker.publish('a', `last ${performance.now()}`).then(() => false, () => true)) await turn()
      const calls = /cmdstat_evalsha:calls=(\d+)/.exec(String(await client.command('INFO', 'commandstats')))?.[1]
      t.ok(Number(calls) < 60, `${calls} calls`)
      const data = await retained(broker)
      t.match(data.at(-1), /^last/)
      t.equal(new Set(data).size, data.length)
    })
  }

  for (const name of newestClients) {
    t.test(`what was rejected while the server was away does not come when it is back (${name})`, async t => {
      const { own, broker } = await openOwn(t, { publishTimeout: 50 }, name)
      await broker.publish('a', '0')
      await own.kill()
      for (let i = 0; i < 5; i++) await t.rejects(broker.publish('a', `${i}`), unavailable)
      await own.start()
      while (await broker.publish('a', 'last').then(() => false, () => true)) await turn()
      const left = (await retained(broker)).filter(data => data !== 'last')
      // What was on its way when the connection broke may have happened.
      t.ok(left.length <= 1, left.join())
    })
  }

  t.test('a server that refuses is not asked again: publish rejects at once, and says why', async t => {
    const { broker, client } = await openOwn(t, {})
    await client.command('CONFIG', 'SET', 'maxmemory', '1')
    const start = performance.now()
    await t.rejects(broker.publish('a', 'x'), { ...unavailable, message: /OOM/, cause: { message: /OOM/ } })
    t.ok(performance.now() - start < 2000)
    await client.command('CONFIG', 'SET', 'maxmemory', '0')
    t.match(await broker.publish('a', 'x'), /./)
  })

  t.test('publish rejects in time also while the first subscriber of its channel waits for its start', async t => {
    const { own, broker } = await openOwn(t, { publishTimeout: 100 })
    await broker.ready()
    own.pause(true)
    follow(t, broker)
    const channels = createChannels({ broker, logger: { info () {}, warn () {} } })
    void channels.channel('a').subscribe().next()
    let isLate = false
    // A subscriber that finds its start is waited for during a second, otherwise.
    const timer = setTimeout(() => { isLate = true }, 700)
    await t.rejects(channels.channel('a').publish('x'), unavailable)
    clearTimeout(timer)
    t.equal(isLate, false)
    own.pause(false)
    await channels.close()
  })

  t.test('ready() resolves when the server answers, and rejects when it does not', async t => {
    const { own, broker } = await openOwn(t, { publishTimeout: 100 })
    await broker.ready()
    own.pause(true)
    await t.rejects(broker.ready(), unavailable)
    own.pause(false)
    await broker.ready()
  })

  t.test('a client without a listener for errors does not end the process when its connection is lost', async t => {
    const own = new RedisServer()
    t.teardown(() => own.remove())
    await own.start()
    const { createClient } = await import('redis')
    const client = createClient({ socket: { path: own.socket, reconnectStrategy: 20 } })
    await client.connect()
    const broker = redisBroker({ client })
    await broker.publish('a', '0')
    await own.kill()
    const published = broker.publish('a', '1')
    await own.start()
    await published
    t.same(await retained(broker), ['1'])
    await broker.close()
    client.destroy()
  })
})

t.test('the end', { skip }, async t => {
  t.test('close() waits for what is being published, and ends tails', async t => {
    const { broker, client } = await open(t)
    const listeners = (client.client as unknown as EventEmitter).listenerCount('ready') - 1
    const over = deferred()
    await broker.tail('a', tailOf(() => {}, { closed: () => { over.resolve() } }))
    let settled = 0
    const published = [broker.publish('a', '1'), broker.publish('a', '2')]
    for (const one of published) void one.then(() => { settled++ })
    const late = broker.tail('b', tailOf(() => {}))
    const read = broker.read('a', 'live', 1)
    const closed = broker.close()
    const gone = { code: 'FST_STREAM_CLOSED' }
    await t.rejects(broker.publish('a', '3'), gone)
    await t.rejects(late, gone)
    await t.rejects(read, gone)
    await t.rejects(broker.ready(), gone)
    await Promise.all([closed, broker.close()])
    t.equal(settled, 2)
    t.equal((client.client as unknown as EventEmitter).listenerCount('ready'), listeners)
    await over.promise
    const other = redisBroker({ client: client.client })
    t.same(await retained(other), ['1', '2'])
    await other.close()
  })

  for (const name of [...newestClients, 'redis 4']) {
    t.test(`close() while the server is away leaves nothing behind (${name})`, async t => {
      const own = new RedisServer()
      t.teardown(() => own.remove())
      await own.start()
      const { broker } = await open(t, { publishTimeout: 100 }, { name, socket: own.socket })
      await broker.tail('a', tailOf(() => {}))
      await own.kill()
      const published = broker.publish('a', 'x')
      published.catch(() => {})
      await broker.close()
      await t.rejects(published, unavailable)
    })
  }
})

t.test('options', async t => {
  const client = { status: 'wait', call () {}, duplicate () {}, subscribe () {}, on () {}, off () {} }
  const nodeRedis = { isReady: false, sendCommand () {}, connect () {}, duplicate () {}, subscribe () {}, on () {}, off () {} }
  const wrong: Array<[options: unknown, message: string]> = [
    [undefined, "Option 'options' must be an object, got 'undefined'"],
    [{}, "Option 'client' must be a client of ioredis, iovalkey or redis, for a single server, got 'undefined'"],
    [{ client: 'redis://localhost' }, "Option 'client' must be a client of ioredis, iovalkey or redis, for a single server, got 'a string'"],
    [{ client: { ...client, isCluster: true } }, "Option 'client' must be a client of ioredis, iovalkey or redis, for a single server, got '[object Object]'"],
    [{ client: { ...nodeRedis, masters: [] } }, "Option 'client' must be a client of ioredis, iovalkey or redis, for a single server, got '[object Object]'"],
    [{ client, subscriber: {} }, "Option 'subscriber' must be a client of ioredis, iovalkey or redis, for a single server, got '[object Object]'"],
    [{ client, prefix: 'a{b}' }, "Option 'prefix' must be 1 to 64 letters, digits and -_.:, got 'a{b}'"],
    [{ client, prefix: '' }, "Option 'prefix' must be 1 to 64 letters, digits and -_.:, got ''"],
    [{ client, retention: 1000 }, "Option 'retention' must be milliseconds from 120000 to 2147483647, got '1000'"],
    [{ client, publishTimeout: 0 }, "Option 'publishTimeout' must be milliseconds from 1 to 2147483647, got '0'"],
    [{ client, pageSize: 1001 }, "Option 'pageSize' must be 1 to 1000 events, got '1001'"],
    [{ client, timeout: 1 }, "Option 'timeout' must be one of client, pageSize, prefix, publishTimeout, retention, subscriber (it is unknown here), got '1'"]
  ]
  for (const [options, message] of wrong) t.throws(() => redisBroker(options as never), { code: 'FST_STREAM_INVALID_OPTION', message })
  for (const one of [client, nodeRedis]) t.ok(redisBroker({ client: one as never, subscriber: undefined }))
})

/** Reads channel `a` until the test ends. */
function follow (t: Test, broker: Broker): Reader {
  const channels = createChannels({ broker })
  t.teardown(() => channels.close())
  return new Reader(channels.channel('a'))
}
