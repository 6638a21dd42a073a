/**
 * What typed events cost: the serializer that Fastify compiles from a schema beside JSON.stringify, and whole streams of
 * a route with schema.events beside one without, in turns in the same run. `npm run bench:serializer`
 */
import Fastify from 'fastify'
import streaming from 'fastify-streaming'
import { machine } from './load/results.js'

const rounds = Number(process.argv[2] ?? 15)
const calls = 100_000
const events = 20_000

const order = {
  type: 'object',
  required: ['id', 'customer', 'lines'],
  properties: {
    id: { type: 'integer' },
    customer: { type: 'string' },
    paid: { type: 'boolean' },
    lines: { type: 'array', items: { type: 'object', required: ['sku', 'price'], properties: { sku: { type: 'string' }, price: { type: 'number' } } } }
  }
}
const samples = {
  'a token': [{ type: 'object', required: ['index', 'delta'], properties: { index: { type: 'integer' }, delta: { type: 'string' } } }, { index: 17, delta: ' and then there were' }],
  'a price': [{
    type: 'object', required: ['symbol', 'price', 'time'], properties: { symbol: { type: 'string' }, price: { type: 'number' }, time: { type: 'integer' }, open: { type: 'boolean' } }
  }, { symbol: 'ACME', price: 12.5, time: 1_764_000_000_000, open: true }],
  'an order': [order, { id: 4711, customer: 'Ada Lovelace', paid: true, lines: Array.from({ length: 6 }, (_, n) => ({ sku: `SKU-${n}`, price: n + 0.5 })) }]
}

const app = Fastify()
await app.register(streaming)
const compiled = {}
for (const [name, [schema, data]] of Object.entries(samples)) {
  const path = pathOf(name)
  const source = Array(events).fill({ event: 'x', data })
  app.get(`${path}/serializer`, async (request, reply) => { compiled[name] = reply.compileSerializationSchema(schema) })
  app.get(`${path}/untyped`, (request, reply) => reply.sse(source))
  app.get(`${path}/unchecked`, { schema: { events: { x: schema } } }, (request, reply) => reply.sse(source, { validate: false }))
  app.get(`${path}/checked`, { schema: { events: { x: schema } } }, (request, reply) => reply.sse(source))
}

console.log(machine())
for (const [name, [, data]] of Object.entries(samples)) {
  const path = pathOf(name)
  await app.inject(`${path}/serializer`)
  const serialize = compiled[name]
  const contenders = {
    'JSON.stringify': () => repeat(JSON.stringify, data),
    'compiled serializer': () => repeat(serialize, data),
    'stream without schema': () => app.inject(`${path}/untyped`),
    'stream with events, validate: false': () => app.inject(`${path}/unchecked`),
    'stream with events': () => app.inject(`${path}/checked`)
  }
  const times = Object.fromEntries(Object.keys(contenders).map(contender => [contender, []]))
  for (let round = -2; round < rounds; round++) {
    for (const [contender, run] of Object.entries(contenders)) {
      const start = performance.now()
      await run()
      if (round >= 0) times[contender].push(performance.now() - start)
    }
  }
  const ratio = (contender, to) => median(times[to].map((time, round) => time / times[contender][round])).toFixed(2)
  console.log(`\n${name}: ${JSON.stringify(data).length} bytes of JSON`)
  console.log(`  compiled serializer: ${ratio('compiled serializer', 'JSON.stringify')} × JSON.stringify (${(median(times['JSON.stringify']) / calls * 1e6).toFixed(0)} ns)`)
  for (const contender of ['stream with events, validate: false', 'stream with events']) {
    console.log(`  ${contender}: ${ratio(contender, 'stream without schema')} × the stream without (${(median(times['stream without schema']) / events * 1e6).toFixed(0)} ns an event)`)
  }
}
await app.close()

function pathOf (name) {
  return `/${Object.keys(samples).indexOf(name)}`
}

function repeat (serialize, data) {
  let length = 0
  for (let i = 0; i < calls; i++) length += serialize(data).length
  return length
}

function median (values) {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)]
}
