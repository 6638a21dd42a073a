import '../fixtures/guard.ts'
import t from 'tap'
import { createChannels, memoryBroker, type Broker, type ChannelItem } from '../../lib/index.ts'
import { eventually } from '../fixtures/clock.ts'

t.test('channels without an app publish, are read, and are counted', async t => {
  const broker = memoryBroker()
  t.teardown(() => broker.close())
  const channels = createChannels({ broker, serialize: value => `<${String(value)}>` })
  const items: ChannelItem[] = []
  const reading = (async () => { for await (const item of channels.channel('a').subscribe()) items.push(item) })()
  const id = await channels.channel('a', { history: { events: 256 } }).publish({ data: 1 })
  await eventually(() => items.length === 2)
  t.match(items, [{ type: 'position' }, { type: 'event', id, data: '<1>' }])
  t.equal(channels.channel('a'), channels.channel('a'))
  t.match(channels.stats(), { channels: 1, subscribers: 1, gaps: 0 })
  await channels.close()
  await reading
  t.throws(() => channels.channel('b'), { code: 'FST_STREAM_CLOSED' })
  t.match(await broker.publish('a', 'x'), /./, 'the broker stays open')
})

t.test('channels without an app share a broker with those of an app', async t => {
  const broker = memoryBroker()
  t.teardown(() => broker.close())
  const [one, two] = [createChannels({ broker }), createChannels({ broker })]
  const iterator = two.channel('a').subscribe()
  await iterator.next()
  const id = await one.channel('a').publish('x')
  t.match(await iterator.next(), { value: { id, data: 'x' } })
  await Promise.all([one.close(), two.close()])
})

const failing = (): Broker => Object.assign(memoryBroker(), { publish: async () => { throw new Error('down') } })

t.test('a publish that nobody awaits and that fails is told to the logger', async t => {
  const lines: unknown[] = []
  const logger = { info () {}, warn (details: object, message: string) { lines.push([details, message]) } }
  const broker = failing()
  void createChannels({ broker, logger }).channel('a').publish('x')
  await eventually(() => lines.length === 1)
  t.match(lines, [[{ err: { message: 'down' } }, 'publish failed']])
})

t.test('without a logger, the console is told', async t => {
  const lines = t.capture(console, 'warn')
  void createChannels({ broker: failing() }).channel('a').publish('x')
  let calls: unknown[] = []
  await eventually(() => (calls = [...calls, ...lines()]).length === 1)
  t.match(calls, [{ args: [{ err: { message: 'down' } }, 'publish failed'] }])
})

t.test('wrong options are refused, naming the option, the rule and the value', t => {
  const broker = memoryBroker()
  const wrong: Array<[options: unknown, message: string]> = [
    [undefined, "Option 'options' must be an object, got 'undefined'"],
    [{}, "Option 'broker' must be given, got 'undefined'"],
    [{ broker: {} }, "Option 'broker' must be a broker, as redisBroker() makes one, got '{}'"],
    [{ broker, logger: null }, "Option 'logger' must be a logger with info() and warn(), got 'null'"],
    [{ broker, logger: { info () {} } }, "Option 'logger' must be a logger with info() and warn(), got '{ info: [Function: info] }'"],
    [{ broker, serialize: 1 }, "Option 'serialize' must be a function, got '1'"],
    [{ broker, prefix: 'x' }, "Option 'prefix' must be one of broker, logger, serialize (it is unknown here), got 'x'"]
  ]
  for (const [options, message] of wrong) t.throws(() => createChannels(options as never), { code: 'FST_STREAM_INVALID_OPTION', message })
  t.end()
})
