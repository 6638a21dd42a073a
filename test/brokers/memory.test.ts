import '../fixtures/guard.ts'
import t from 'tap'
import { brokerContract } from '../fixtures/broker-contract.ts'
import { brokerHistory, history, retained } from '../fixtures/broker-history.ts'
import { fakeClock } from '../fixtures/clock.ts'
import { FaultyBroker } from '../fixtures/faulty-broker.ts'
import { PlainBroker } from '../fixtures/plain-broker.ts'
import { tailOf } from '../fixtures/tail.ts'
import { memoryBroker, type EventId, type Stored } from '../../lib/index.ts'

brokerContract(t, 'a memory broker', () => ({ broker: memoryBroker() }))

brokerContract(t, 'a memory broker behind a bad line', (t, random) => {
  const broker = new FaultyBroker(random, { delay: 0.3, duplicate: 0.2, reorder: 0.2, drop: 0.1, fail: 0, disrupt: 0.1 })
  return { broker, wipe: () => broker.wipe(random.chance(0.5)) }
})

brokerContract(t, 'the plainest broker', () => {
  const broker = new PlainBroker()
  return { broker, wipe: () => { broker.wipe() }, copy: () => broker.copy() }
})

brokerHistory(t, () => memoryBroker())

t.test('a history of a second forgets every event after a second, the newest one, too', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  await broker.publish('a', '1', { history: history({ age: 1000 }) })
  await clock.tickAsync(600)
  const newest = await broker.publish('a', '2', { history: history({ age: 1000 }) })
  await clock.tickAsync(399)
  t.same(await retained(broker), ['1', '2'])
  await clock.tickAsync(1)
  t.same(await retained(broker), ['2'])
  await clock.tickAsync(600)
  t.same(await broker.read('a', 'earliest', 10), { contiguous: true, base: newest, events: [], head: newest })
})

t.test('all bounds of a history hold together', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const bounds = { events: 4, bytes: 6, age: 1000 }
  for (const data of ['1', '22', '3', '4', '5']) await broker.publish('a', data, { history: bounds })
  t.same(await retained(broker), ['22', '3', '4', '5'])
  await broker.publish('a', '666', { history: bounds })
  t.same(await retained(broker), ['3', '4', '5', '666'])
  await clock.tickAsync(500)
  await broker.publish('a', '7777', { history: bounds })
  t.same(await retained(broker), ['7777'])
  await clock.tickAsync(999)
  t.same(await retained(broker), ['7777'])
  await clock.tickAsync(1)
  t.same(await retained(broker), [])
})

t.test('the head is a position also when nothing is retained', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const old = await broker.publish('a', '1', { history: history({ age: 1000 }) })
  const head = await broker.publish('a', '2', { history: history({ age: 1000 }) })
  await clock.tickAsync(1000)
  t.match(await broker.read('a', head, 10), { contiguous: true, base: head, events: [], head })
  t.match(await broker.read('a', old, 10), { contiguous: false, base: head, events: [], head })
})

t.test('a log that nobody follows is forgotten once its last event has been gone for as long as it was kept', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const id = await broker.publish('a', 'x')
  await clock.tickAsync(599_999)
  t.match(await broker.read('a', id, 1), { contiguous: true, events: [], head: id })
  t.equal((await broker.read('a', 'live', 1)).head, id)
  await clock.tickAsync(2)
  const { head } = await broker.read('a', 'live', 1)
  t.not(head, id)
  t.ok(broker.compare(head, id) > 0)
  t.match(await broker.read('a', id, 1), { contiguous: false, base: head })
})

t.test('a log of which the history is shorter than the default is forgotten sooner', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const id = await broker.publish('a', 'x', { history: history({ age: 1000 }) })
  await clock.tickAsync(2500)
  t.not((await broker.read('a', 'live', 1)).head, id)
})

t.test('a log that is published to is not forgotten', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const first = await broker.publish('a', '1')
  await clock.tickAsync(200_000)
  const second = await broker.publish('a', '2')
  await clock.tickAsync(299_000)
  t.match(await broker.read('a', first, 10), { contiguous: true, events: [{ id: second }] })
})

t.test('a log that is followed is not forgotten until it no longer is', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const told: Stored[] = []
  const untail = await broker.tail('a', tailOf(event => { told.push(event) }))
  const id = await broker.publish('a', 'x')
  await clock.tickAsync(1_000_000)
  t.equal((await broker.read('a', 'live', 1)).head, id)
  const next = await broker.publish('a', 'y')
  t.same(told.map(({ id, previous }) => [id, previous]), [[id, told[0]?.previous], [next, id]])
  await untail()
  await clock.tickAsync(299_000)
  t.equal((await broker.read('a', 'live', 1)).head, next)
  await clock.tickAsync(400_000)
  t.not((await broker.read('a', 'live', 1)).head, next)
})

t.test('an empty log that somebody asked for is forgotten as well', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const { head } = await broker.read('a', 'live', 1)
  await clock.tickAsync(200_000)
  t.equal((await broker.read('a', 'live', 1)).head, head)
  await clock.tickAsync(400_000)
  t.not((await broker.read('a', 'live', 1)).head, head)
})

t.test('a history longer than a timer can wait is not forgotten early', async t => {
  const clock = fakeClock(t)
  const broker = memoryBroker()
  const id = await broker.publish('a', 'x', { history: history({ age: 2 ** 31 - 1 }) })
  await clock.tickAsync(600_000)
  t.equal((await broker.read('a', 'earliest', 1)).events[0]?.id, id)
})

t.test('the ids of two brokers are never the same, and not valid for the other', async t => {
  const [one, two] = [memoryBroker(), memoryBroker()]
  const ids = new Set<EventId>()
  for (const broker of [one, two]) for (let i = 0; i < 100; i++) ids.add(await broker.publish('a', 'x'))
  t.equal(ids.size, 200)
  const id = await one.publish('a', 'x')
  t.equal(one.valid(id), true)
  t.equal(two.valid(id), false)
})

t.test('an end of a tail after close() does nothing', async t => {
  const broker = memoryBroker()
  const untail = await broker.tail('a', tailOf(() => t.fail('told'), { disrupted: () => t.fail('disrupted') }))
  await broker.close()
  await untail()
  await broker.close()
  await t.rejects(broker.publish('a', 'x'), { code: 'FST_STREAM_CLOSED' })
})
