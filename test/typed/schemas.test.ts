import '../fixtures/guard.ts'
import { Readable } from 'node:stream'
import v8 from 'node:v8'
import vm from 'node:vm'
import { AjvCompiler } from '@fastify/ajv-compiler'
import { TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import t, { type Test } from 'tap'
import { Type } from 'typebox'
import { z } from 'zod'
import streaming, { createChannels, memoryBroker } from '../../lib/index.ts'
import { internalOf } from '../../lib/internals.ts'
import { eventually } from '../fixtures/clock.ts'
import { soon } from '../fixtures/samples.ts'
import { serve, troubles, type ServeOptions, type TestServer } from '../fixtures/server.ts'

const headline = { type: 'object', required: ['text'], properties: { text: { type: 'string' }, seen: { type: 'integer' } } }
const events = { headline, message: { type: 'string', minLength: 2 } }

type Handler = (request: FastifyRequest, reply: any) => unknown

/** An app whose `GET /typed` has these events. */
async function typed (t: Test, schemas: object, handler: Handler, options: ServeOptions = {}): Promise<TestServer> {
  return await serve(t, () => {}, options, app => { app.get('/typed', { schema: { events: schemas } }, handler) })
}

async function body (server: TestServer, path = '/typed'): Promise<string> {
  return await (await fetch(server.url + path)).text()
}

async function failure (server: TestServer, path = '/typed'): Promise<{ statusCode: number, code: string, message: string }> {
  return await (await fetch(server.url + path)).json() as never
}

/** What an app says that has a route with these events. */
async function registered (schemas: unknown, options: object = {}): Promise<unknown> {
  const app = Fastify()
  await app.register(streaming)
  try {
    app.get('/typed', { schema: { events: schemas }, ...options }, () => {})
    await app.ready()
  } finally {
    await app.close()
  }
  return undefined
}

t.test('the events of a route are sent with what their schemas name, and nothing else', async t => {
  const server = await typed(t, events, (request, reply) => reply.sse([
    'hello', { event: 'headline', id: 1, data: { text: 'a', password: 'hunter2' } }, { event: 'message', data: 'again' }, { data: 'once more' }
  ]))
  t.equal(await body(server), 'data: hello\n\nevent: headline\nid: 1\ndata: {"text":"a"}\n\nevent: message\ndata: again\n\ndata: once more\n\n')
  t.match(await server.outcome(), { reason: 'completed', events: 4 })
})

t.test('an event that the route does not name is an error reply before the head, naming those it does', async t => {
  const server = await typed(t, events, (request, reply) => reply.sse([{ event: 'headlines', data: {} }]))
  t.match(await failure(server), { statusCode: 500, code: 'FST_STREAM_UNKNOWN_EVENT', message: "The event 'headlines' is not one of headline, message, the events of GET /typed" })
})

t.test('of very many names not all are told', async t => {
  const schemas = Object.fromEntries(Array.from({ length: 25 }, (_, i) => [`e${i}`, {}]))
  const server = await typed(t, schemas, (request, reply) => reply.sse(['x']))
  t.match(await failure(server), { code: 'FST_STREAM_UNKNOWN_EVENT', message: /one of e0, e1, .*, e19, …, the events of/ })
})

t.test('a text is refused where the route names no message', async t => {
  const server = await typed(t, { headline }, (request, reply) => reply.sse(['hello']))
  t.match(await failure(server), { code: 'FST_STREAM_UNKNOWN_EVENT', message: "The event 'message' is not one of headline, the events of GET /typed; it is the event without a name, and that of a text" })
})

t.test('data that does not fit is an error reply before the head, naming path and rule, and not the data', async t => {
  for (const [data, rule] of [
    [{ text: 5 }, 'data/text must be string'],
    [{ text: 'a', seen: '5' }, 'data/seen must be integer'],
    [{}, "data must have required property 'text'"],
    ['{"text":"hunter2"}', 'data must be object'],
    [Buffer.from('{}'), "data must have required property 'text'"]
  ]) {
    const server = await typed(t, events, (request, reply) => reply.sse([{ event: 'headline', data }]))
    const { code, message } = await failure(server)
    t.equal(code, 'FST_STREAM_INVALID_EVENT')
    t.match(message, `An event must be as the schema of 'headline' has it: ${rule as string}, got`)
    t.notMatch(message, 'hunter2')
  }
})

t.test('a refusal tells no value, no key of a map, and no words of a validator\'s own; its cause tells all', async t => {
  const names = { $id: 'names', type: 'object', properties: { first: { type: 'string' } } }
  const zod = { list: z.record(z.string(), z.object({ pin: z.number({ error: ({ input }) => `no pin: ${String(input)}` }) })), strict: z.strictObject({}) }
  const json = {
    map: { type: 'object', additionalProperties: { type: 'object', properties: { pin: { type: 'integer' } } } },
    list: { type: 'array', items: { type: 'object', properties: { name: { $ref: 'names#' } } } },
    count: { type: 'integer' }
  }
  const publish = (channel: any, event: string, data: unknown) => channel.publish({ event, data })
  await serve(t, () => {}, {}, async app => {
    await app.register(async app => {
      app.addSchema(names)
      const channel = app.streaming.channel('json', { events: json })
      for (const [event, data, message, cause] of [
        ['map', { 'ann@example.com': { pin: 'x' } }, "data/*/pin must be integer, got 'a string'", 'data/ann@example.com/pin must be integer'],
        ['map', { 4111111111111111: { pin: 'x' } }, "data/*/pin must be integer, got 'a string'", 'data/4111111111111111/pin must be integer'],
        ['list', [{}, { name: { first: 1 } }], "data/1/name/first must be string, got 'a number'", 'data/1/name/first must be string'],
        ['count', 4111111111111111.5, "data must be integer, got 'a number'", 'data must be integer'],
        ['count', 41n, "data must be integer, got 'a bigint'", 'data must be integer'],
        ['count', true, "data must be integer, got 'a boolean'", 'data must be integer'],
        ['count', null, "data must be integer, got 'null'", 'data must be integer']
      ] as const) {
        await t.rejects(publish(channel, event, data), { code: 'FST_STREAM_INVALID_EVENT', message: `An event must be as the schema of '${event}' has it: ${message}`, cause: { message: new RegExp(`^${cause} \\{ type: '\\w+' \\}$`), errors: [{}] } })
      }
    })
    await app.register(async app => {
      app.setValidatorCompiler(validatorCompiler)
      app.setSerializerCompiler(serializerCompiler)
      const channel = app.streaming.channel('zod', { events: zod })
      await t.rejects(publish(channel, 'list', { 'ann@example.com': { pin: 'hunter2' } }), { message: /: data\/\*\/pin must be number, got 'a string'$/ })
      await t.rejects(publish(channel, 'strict', { hunter2: 1 }), { message: /: data fails unrecognized_keys, got '\[object Object\]'$/ })
    })
  })
})

t.test('what JSON has in the place of an object is checked and sent', async t => {
  const toJSON = () => ({ text: 'a', more: 1 })
  const handler: Handler = (request, reply) => reply.sse([{ event: 'headline', data: { text: 5, toJSON } }, { data: new URL('http://localhost/') }])
  t.equal(await body(await typed(t, events, handler)), 'event: headline\ndata: {"text":"a"}\n\ndata: http://localhost/\n\n')
  for (const [data, message] of [
    [{ text: 'a', toJSON: () => ({ text: 5 }) }, /data\/text must be string/],
    [{ text: 'a', toJSON: () => { throw new Error('hunter2') } }, /^An event must be as the schema of 'headline' has it, got/],
    [new Date(0), /data must be object, got 'a string'/]
  ] as const) {
    const server = await typed(t, events, (request, reply) => reply.sse([{ event: 'headline', data }]))
    t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message })
  }
  const dates = await typed(t, { message: { type: 'string' }, day: { type: 'object', additionalProperties: true } }, (request, reply) => reply.sse([{ data: new Date(0) }, { event: 'day', data: new Date(0) }]))
  t.match(await body(dates), /^data: 1970-01-01T00:00:00.000Z\n\nevent: error\n/)
})

t.test('data is not changed by being checked', async t => {
  const data = Object.freeze({ text: 'a', more: 1 })
  const schema = { ...headline, additionalProperties: true, properties: { ...headline.properties, seen: { type: 'integer', default: 7 } } }
  const server = await typed(t, { headline: schema }, (request, reply) => reply.sse([{ event: 'headline', data }]))
  t.match(await body(server), '"text":"a"')
  t.strictSame(data, { text: 'a', more: 1 })
})

t.test('an event that does not fit after the head is a source that has thrown: not a byte of it is sent', async t => {
  for (const [bad, code] of [[{ event: 'headline', data: { text: 1 } }, 'FST_STREAM_INVALID_EVENT'], [{ event: 'x', data: 'y' }, 'FST_STREAM_UNKNOWN_EVENT']] as const) {
    const server = await typed(t, events, (request, reply) => reply.sse(async function * () {
      yield * soon('first')
      yield bad
      yield 'never'
    }))
    t.equal(await body(server), 'data: first\n\nevent: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
    t.match(await server.outcome(), { reason: 'failed', events: 1, error: { code } })
  }
})

t.test('send() rejects what does not fit, logs it once, and the stream goes on', async t => {
  const codes: unknown[] = []
  const server = await typed(t, events, (request, reply) => reply.sse(async (stream: any) => {
    stream.send({ event: 'headline', data: { text: 1 } })
    await stream.send({ event: 'x' }).catch((error: { code: string }) => codes.push(error.code))
    await stream.send({ event: 'headline', data: { text: 'good' } })
  }))
  t.equal(await body(server), 'event: headline\ndata: {"text":"good"}\n\n')
  t.strictSame(codes, ['FST_STREAM_UNKNOWN_EVENT'])
  t.strictSame(troubles(server), ['refused by the stream', 'refused by the stream'])
  t.match(await server.outcome(), { reason: 'completed', events: 1 })
})

t.test('an open stream of a route with events takes only these', async t => {
  const server = await typed(t, events, async (request, reply) => {
    const stream = await reply.sse()
    await stream.send({ event: 'headline', data: {} }).catch(() => {})
    await stream.send({ event: 'headline', data: { text: 'good' } })
    stream.close()
  })
  t.equal(await body(server), 'event: headline\ndata: {"text":"good"}\n\n')
})

t.test('comments, retry times and ids alone are sent, as they have no data', async t => {
  const server = await typed(t, { headline }, (request, reply) => reply.sse([{ comment: 'c' }, { retry: 5 }, { id: 'checkpoint' }]))
  t.equal(await body(server), ': c\nretry: 5\nid: checkpoint\n\n')
})

t.test('an event without data is one with an empty text, which has to fit', async t => {
  const schemas = { done: { type: 'string', maxLength: 0 }, any: {}, headline }
  const server = await serve(t, () => {}, {}, app => {
    for (const event of Object.keys(schemas)) app.get(`/${event}`, { schema: { events: schemas } }, (request, reply) => reply.sse([{ event }] as never))
  })
  t.equal(await body(server, '/done'), 'event: done\ndata: \n\n')
  t.equal(await body(server, '/any'), 'event: any\ndata: \n\n')
  t.match(await failure(server, '/headline'), { code: 'FST_STREAM_INVALID_EVENT', message: /data must be object/ })
})

t.test('a text is sent as it is, and everything else as JSON', async t => {
  const server = await typed(t, { any: {}, choice: { enum: ['a "quoted" one', null, 1] } }, (request, reply) => reply.sse([
    { event: 'any', data: 'two\nlines' }, { event: 'any', data: ['"'] }, { event: 'choice', data: 'a "quoted" one' }, { event: 'choice', data: null }
  ]))
  t.equal(await body(server), 'event: any\ndata: two\ndata: lines\n\nevent: any\ndata: ["\\""]\n\nevent: choice\ndata: a "quoted" one\n\nevent: choice\ndata: null\n\n')
})

t.test('items of Node and web streams are checked as others', async t => {
  const server = await serve(t, () => {}, {}, app => {
    const schema = { events }
    app.get('/node', { schema }, (request, reply) => reply.sse(Readable.from([{ event: 'headline', data: { text: 'a', more: 1 } }])))
    app.get('/bytes', { schema }, (request, reply) => reply.sse(Readable.from([Buffer.from('bytes')], { objectMode: false }) as never))
    app.get('/web', { schema }, (request, reply) => reply.sse(ReadableStream.from([{ event: 'x', data: 1 }]) as never))
  })
  t.equal(await body(server, '/node'), 'event: headline\ndata: {"text":"a"}\n\n')
  t.equal(await body(server, '/bytes'), 'data: bytes\n\n')
  t.match(await failure(server, '/web'), { code: 'FST_STREAM_UNKNOWN_EVENT' })
})

t.test('a Response is refused before the head, as nothing would check its events, and its body is let go', async t => {
  let cancelled = false
  const upstream = new ReadableStream({ cancel () { cancelled = true } })
  const server = await typed(t, events, (request, reply) => reply.sse(() => new Response(upstream, { headers: { 'content-type': 'text/event-stream' } })))
  t.match(await failure(server), { statusCode: 500, code: 'FST_STREAM_INVALID_SOURCE', message: /passed on as it is/ })
  t.ok(cancelled)
})

t.test('HEAD of a route with events has the head, and no events', async t => {
  const server = await typed(t, events, (request, reply) => reply.sse([{ event: 'x' }], { validate: false }))
  const { status, headers } = await fetch(`${server.url}/typed`, { method: 'HEAD' })
  t.equal(status, 200)
  t.equal(headers.get('content-type'), 'text/event-stream')
})

t.test('the event of onError is not checked', async t => {
  const server = await typed(t, events, (request, reply) => reply.sse(async function * () {
    yield * soon('first')
    throw new Error('lost')
  }, { onError: () => ({ event: 'lost', data: { a: 1 } }) }))
  t.equal(await body(server), 'data: first\n\nevent: lost\ndata: {"a":1}\n\n')
})

// Options

t.test('validate: false leaves data to the serializer, and refuses unknown events all the same', async t => {
  const handler: Handler = (request, reply) => reply.sse([{ event: (request.query as { event?: string }).event ?? 'headline', data: { text: 5, more: 1 } }])
  const server = await typed(t, events, handler, { streaming: { validate: false } })
  t.equal(await body(server), 'event: headline\ndata: {"text":"5"}\n\n')
  t.match(await failure(server, '/typed?event=x'), { code: 'FST_STREAM_UNKNOWN_EVENT' })
})

t.test('validate of a call goes before that of the plugin', async t => {
  const handler = (validate: boolean): Handler => (request, reply) => reply.sse([{ event: 'headline', data: { text: 5 } }], { validate })
  t.equal(await body(await typed(t, events, handler(false))), 'event: headline\ndata: {"text":"5"}\n\n')
  t.match(await failure(await typed(t, events, handler(true), { streaming: { validate: false } })), { code: 'FST_STREAM_INVALID_EVENT' })
})

t.test('data that a serializer cannot take is refused without validate, too, and the value is not told', async t => {
  const server = await typed(t, events, (request, reply) => reply.sse([{ event: 'headline', data: { text: 'a', seen: 'hunter2' } }], { validate: false }))
  const { code, message } = await failure(server)
  t.equal(code, 'FST_STREAM_INVALID_EVENT')
  t.equal(message, "An event must be as the schema of 'headline' has it, got '[object Object]'")
})

t.test('validate is refused in a route without events, and serialize in one that has them', async t => {
  const server = await serve(t, (request, reply) => reply.sse([], { validate: true }), {}, app => {
    app.get('/typed', { schema: { events } }, (request, reply) => reply.sse([], { serialize: String }))
  })
  t.match(await failure(server, '/'), { code: 'FST_STREAM_INVALID_OPTION', message: /'validate' must be absent/ })
  t.match(await failure(server), { code: 'FST_STREAM_INVALID_OPTION', message: /'serialize' must be absent/ })
})

t.test('serialize of the plugin does not apply to routes with events', async t => {
  const handler: Handler = (request, reply) => reply.sse([{ event: 'headline', data: { text: 'a' } }])
  t.equal(await body(await typed(t, events, handler, { streaming: { serialize: () => 'mine' } })), 'event: headline\ndata: {"text":"a"}\n\n')
})

t.test('what JSON has no value for is refused where the schema lets it pass', async t => {
  const schemas = { a: { type: 'array', items: {} }, b: { type: 'object', properties: { c: {} } } }
  for (const item of [{ event: 'a', data: [1, undefined] }, { event: 'a', data: [() => {}] }, { event: 'a', data: [Symbol('s')] }]) {
    const server = await typed(t, schemas, (request, reply) => reply.sse([item]))
    t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message: "An event must be an object whose data serializes to JSON, got '[object Array]'" })
  }
  const server = await typed(t, schemas, (request, reply) => reply.sse([{ event: 'a', data: ['undefined'] }, { event: 'b', data: { c: 'undefined' } }]))
  t.equal(await body(server), 'event: a\ndata: ["undefined"]\n\nevent: b\ndata: {"c":"undefined"}\n\n')
})

// Schemas

t.test('a bad schema fails where the route is declared, naming route and event', async t => {
  const app = Fastify()
  await app.register(streaming)
  t.throws(() => app.get('/typed', { schema: { events: { headline: { type: 'objekt' } } } }, () => {}), {
    code: 'FST_STREAM_INVALID_SCHEMA', message: /^The schema of the event 'headline' of GET \/typed cannot be used: /
  })
})

t.test('what is wrong with a schema whatever comes fails where the route is declared, and all else when the app gets ready', async t => {
  const loop: { type: string, properties: Record<string, unknown> } = { type: 'object', properties: {} }
  loop.properties.self = loop
  const at = { sync: true, ready: false }
  for (const [schema, why, when] of [
    [{ type: 'object', properties: { a: { $ref: 'later#' }, b: { minLength: -1 } } }, "schema is invalid: data/properties/b/minLength must be >= 0 { comparison: '>=', limit: 0 }", at.sync],
    [loop, 'it contains itself, or is nested too deeply', at.sync],
    [{ type: 'string', pattern: '(' }, /Invalid regular expression/, at.ready],
    [{ typ: 'string' }, 'strict mode: unknown keyword: "typ"', at.ready],
    [{ $schema: 'http://json-schema.org/draft-07/schema#', type: 'objekt' }, /schema is invalid/, at.sync],
    [{ $ref: 'nowhere#' }, /can't resolve reference nowhere#/, at.ready],
    [{ $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'string' }, /no schema with key or ref "https:\/\/json-schema.org\/draft\/2020-12\/schema"/, at.ready]
  ] as const) {
    const app = Fastify()
    await app.register(streaming)
    const expected = { code: 'FST_STREAM_INVALID_SCHEMA', message: typeof why === 'string' ? `The schema of the event 'one' of GET /typed cannot be used: ${why}` : why }
    const declare = () => { app.get('/typed', { schema: { events: { one: schema } } }, () => {}) }
    if (when) t.throws(declare, expected)
    else {
      declare()
      await t.rejects(async () => await app.ready(), expected)
    }
    await app.close()
  }
})

t.test('a compiler that is set after the route may have keywords and kinds of schemas of its own', async t => {
  const server = await serve(t, () => {}, {}, app => {
    app.register(async app => {
      app.get('/keyword', { schema: { events: { message: { type: 'string', shout: true } } } }, (request, reply: any) => reply.sse(['x']))
      app.setValidatorCompiler(() => () => true)
      app.setSerializerCompiler(() => JSON.stringify)
      app.get('/kind', { schema: { events: { message: { type: 'shout' } } } }, (request, reply: any) => reply.sse(['x']))
    })
    app.get('/own', { schema: { events: { message: { type: 'shout' } } }, validatorCompiler: () => () => true, serializerCompiler: () => JSON.stringify }, (request, reply: any) => reply.sse(['x']))
  })
  for (const path of ['/keyword', '/kind', '/own']) t.equal(await body(server, path), 'data: x\n\n')
})

t.test('where the app has options for another kind of schema, these are no JSON schemas', async t => {
  const server = await typed(t, { message: { type: 'float32' } }, (request, reply) => reply.sse([{ data: 1.5 }]), { fastify: { ajv: { mode: 'JTD', customOptions: { allErrors: false } }, jsonShorthand: false, schemaController: { compilersFactory: { buildSerializer: () => () => JSON.stringify } } } as never })
  t.equal(await body(server), 'data: 1.5\n\n')
})

t.test('what cannot be events is refused where the route is declared', async t => {
  for (const [schemas, why] of [
    [[], /an object with a schema for each name, not \[object Array\]/],
    ['headline', /an object with a schema for each name, not a string/],
    [{}, /at least one event/],
    [{ '': headline }, /one line of well-formed text/],
    [{ 'a\nb': headline }, /one line of well-formed text/],
    [{ '\ud83d': headline }, /one line of well-formed text/],
    [{ headline: 'object' }, /a schema, not a string/],
    [{ headline: null }, /a schema, not null/]
  ]) {
    await t.rejects(registered(schemas), { code: 'FST_STREAM_INVALID_SCHEMA', message: why as RegExp })
  }
})

t.test('a schema may refer to one that is added later, and fails at ready if none is', async t => {
  await t.rejects(registered({ headline: { $ref: 'headline#' } }), { code: 'FST_STREAM_INVALID_SCHEMA', message: /'headline' of GET \/typed/ })
  const server = await serve(t, () => {}, {}, app => {
    app.get('/typed', { schema: { events: { headline: { $ref: 'headline#' } } } }, (request, reply) => reply.sse([{ event: 'headline', data: { text: 'a', more: 1 } }]))
    app.addSchema({ $id: 'headline', ...headline })
  })
  t.equal(await body(server), 'event: headline\ndata: {"text":"a"}\n\n')
})

t.test('true and false are schemas', async t => {
  const server = await typed(t, { message: true, never: false }, (request, reply) => reply.sse([{ data: [1] }]))
  t.equal(await body(server), 'data: [1]\n\n')
})

t.test('formats and keywords are those of the options of the app', async t => {
  const ajv = { customOptions: { formats: { shout: /^[A-Z]+$/ } } }
  const server = await typed(t, { message: { type: 'string', format: 'shout' } }, (request, reply) => reply.sse([(request.query as { say: string }).say]), { fastify: { ajv } })
  t.equal(await body(server, '/typed?say=WHAT'), 'data: WHAT\n\n')
  t.match(await failure(server, '/typed?say=what'), { message: /data must match format/ })
})

t.test('one schema object may be of many routes and methods', async t => {
  const schema = { events }
  const server = await serve(t, () => {}, {}, app => {
    app.route({ method: ['GET', 'POST'], url: '/a', schema, handler: (request, reply) => reply.sse(['from a']) })
    app.register(async app => { app.get('/', { schema }, (request, reply) => reply.sse(['from b'])) }, { prefix: '/b' })
  })
  for (const path of ['/a', '/b', '/b/']) t.match(await body(server, path), `data: from ${path[1]}\n\n`)
})

t.test('a list of types sends data as what it is, in whatever order they are', async t => {
  const either = { type: ['integer', 'string', 'array', 'object', 'null'], default: { type: ['string', 'null'] } }
  const schemas = { either, nested: { type: 'object', properties: { value: { const: { type: ['string', 'null'] } }, type: { type: 'string' }, list: { type: 'array', items: either }, shared: { $ref: 'either#' } } } }
  const server = await serve(t, () => {}, { fastify: { ajv: { customOptions: { allowUnionTypes: true } } }, before: app => app.addSchema({ $id: 'either', ...either }) }, app => {
    app.get('/typed', { schema: { events: schemas } }, (request, reply) => reply.sse([
      { event: 'either', data: ['a', 'b'] }, { event: 'either', data: 'a' }, { event: 'nested', data: { list: [['a'], null, 'b', 1], shared: [1, 2], type: 'x', value: { type: ['string', 'null'] } } }
    ]))
  })
  t.equal(await body(server), 'event: either\ndata: ["a","b"]\n\nevent: either\ndata: a\n\nevent: nested\ndata: {"value":{"type":["string","null"]},"type":"x","list":[["a"],null,"b",1],"shared":[1,2]}\n\n')
})

t.test('defaults, types and unknown keys are not repaired before the check', async t => {
  const schemas = { strict: { type: 'object', required: ['a'], additionalProperties: false, properties: { a: { type: 'string', default: 'x' }, b: { type: 'integer' } } } }
  for (const [data, rule] of [[{}, /must have required property 'a'/], [{ a: 'x', b: '1' }, /data\/b must be integer/], [{ a: 'x', more: 1 }, /must NOT have additional properties/]] as const) {
    const server = await typed(t, schemas, (request, reply) => reply.sse([{ event: 'strict', data }]))
    t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message: rule })
  }
})

t.test('each schema is compiled once, whatever routes, methods and channels have it', async t => {
  const compiled: unknown[] = []
  const count = ({ schema }: { schema: unknown }) => {
    compiled.push(schema)
    return () => true
  }
  const schema = { events }
  const mine = { events: { message: {} } }
  await serve(t, () => {}, { before: app => { app.setValidatorCompiler(count) } }, app => {
    app.get('/a', { schema }, () => {})
    app.route({ method: ['GET', 'POST'], url: '/b', schema, handler: () => {} })
    app.get('/mine', { schema: mine, validatorCompiler: count as never, serializerCompiler: () => String as never }, () => {})
    for (const name of ['x', 'y']) app.streaming.channel(name, { events })
  })
  t.strictSame(compiled, [headline, events.message, {}])
})

t.test('a schema that is written out again is compiled once, and one that is not JSON once for each object', async t => {
  let compiled = 0
  const { app } = await serve(t, () => {}, {
    before: app => {
      app.setValidatorCompiler(() => {
        compiled++
        return () => true
      })
      app.setSerializerCompiler(() => JSON.stringify)
    }
  })
  const name = (schema: unknown) => app.streaming.channel(`user:${Math.random()}`, { events: { message: schema } })
  for (let i = 0; i < 10; i++) name({ type: 'string' })
  t.equal(compiled, 1)
  const format = /x/
  for (let i = 0; i < 10; i++) name({ type: 'string', format })
  t.equal(compiled, 11, 'a text would not tell one from the other')
  const grown: Record<string, unknown> = { message: {} }
  app.streaming.channel('small', { events: grown })
  grown.more = {}
  await t.resolves(app.streaming.channel('large', { events: grown }).publish({ event: 'more', data: 1 } as never))
})

t.test('routes that were declared before the plugin share what is compiled, and keep compilers of their own', async t => {
  let compiled = 0
  const app = Fastify()
  t.teardown(async () => await app.close())
  const count = () => {
    compiled++
    return () => true
  }
  app.setValidatorCompiler(count)
  for (const path of ['/a', '/b']) app.get(path, { schema: { events } }, (request, reply) => reply.sse(['x']))
  app.get('/own', { schema: { events: { message: {} } }, validatorCompiler: () => () => false }, (request, reply) => reply.sse(['x']))
  app.register(streaming)
  await app.ready()
  t.equal(compiled, 2)
  t.equal((await app.inject('/a')).body, 'data: x\n\n')
  t.match((await app.inject('/own')).json(), { code: 'FST_STREAM_INVALID_EVENT' })
})

t.test('a route keeps its configuration, and one that is copied from it has none of its events', async t => {
  const server = await serve(t, () => {}, {}, app => {
    app.addHook('onRoute', route => {
      if (route.url === '/typed' && route.method === 'GET') app.route({ ...route, url: '/copy', schema: {} })
    })
    app.get('/typed', { schema: { events }, config: { mine: 1 } as object }, (request, reply: any) => {
      reply.header('x-mine', (request.routeOptions.config as { mine?: number }).mine)
      return reply.sse([{ event: 'anything', data: 1 }])
    })
  })
  const copy = await fetch(`${server.url}/copy`)
  t.equal(copy.headers.get('x-mine'), '1')
  t.equal(await copy.text(), 'event: anything\ndata: 1\n\n')
  const own = await fetch(`${server.url}/typed`)
  t.equal(own.status, 500)
  t.equal(own.headers.get('x-mine'), '1')
})

t.test('what is wrong with data itself is refused, and not told', async t => {
  const revoked = Proxy.revocable({}, {})
  revoked.revoke()
  const bad = [
    { get toJSON () { throw new Error('hunter2') } },
    { get [Symbol.toStringTag] () { return 'hunter2' } },
    { get [Symbol.toStringTag] () { throw new Error('hunter2') } },
    Object.assign(Object.create({ [Symbol.toStringTag]: 'Order' }) as object, { text: 1 }),
    Object.assign(Object.create(null) as object, { [Symbol.toStringTag]: 'hunter2' }),
    revoked.proxy
  ]
  const got: string[] = []
  for (const data of bad) {
    const server = await typed(t, events, (request, reply) => reply.sse([{ event: 'headline', data }]))
    const { code, message } = await failure(server)
    t.equal(code, 'FST_STREAM_INVALID_EVENT')
    t.notMatch(message, 'hunter2')
    got.push(message.replace(/.*got /, ''))
  }
  t.strictSame(got, ["'[object Object]'", "'[object Object]'", "'[object Object]'", "'a number'", "'[object Object]'", "'[object Object]'"])
})

t.test('a compiler and a schema that come between are those of what is compiled after', async t => {
  const app = Fastify()
  await app.register(streaming)
  const own = { message: { type: 'string' } }
  await t.rejects(app.streaming.channel('a', { events: own }).publish({ data: 1 } as never))
  t.throws(() => app.streaming.channel('c', { events: { message: { $ref: 'text#' } } }), { code: 'FST_STREAM_INVALID_SCHEMA' })
  app.addSchema({ $id: 'text', type: 'string' })
  await t.resolves(app.streaming.channel('c', { events: { message: { $ref: 'text#' } } }).publish('x' as never))
  app.setValidatorCompiler(() => () => true)
  await t.resolves(app.streaming.channel('b', { events: own }).publish({ data: 1 } as never))
  await app.close()
})

t.test('a schema that can be called is one', async t => {
  const schema = Object.assign((data: unknown) => typeof data === 'string', { kind: 'mine' })
  const server = await serve(t, () => {}, {
    before: app => {
      app.setValidatorCompiler(({ schema }) => data => (schema as unknown as (data: unknown) => boolean)(data))
      app.setSerializerCompiler(() => JSON.stringify)
    }
  }, app => { app.get('/typed', { schema: { events: { message: schema } } }, (request, reply: any) => reply.sse(['hello', { data: 1 }])) })
  t.equal(await body(server), 'data: hello\n\nevent: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
})

t.test('events that another hook gives a route are its own', async t => {
  const server = await serve(t, () => {}, {}, app => {
    app.addHook('onRoute', route => { route.schema = { events: { ...events, more: {} } } })
    app.get('/typed', { schema: { events } }, (request, reply: any) => reply.sse([{ event: 'more', data: 1 }]))
    app.get('/none', (request, reply: any) => reply.sse([{ event: 'nothing', data: 1 }]))
  })
  t.equal(await body(server), 'event: more\ndata: 1\n\n')
  t.match(await failure(server, '/none'), { code: 'FST_STREAM_UNKNOWN_EVENT' })
})

// Routes that were declared before the plugin was loaded

t.test('a route that was declared before the plugin was loaded is compiled at ready', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  app.get('/before', { schema: { events } }, (request, reply) => reply.sse([{ event: 'headline', data: { text: 'a', more: 1 } }]))
  app.register(streaming)
  app.get('/typed', { schema: { events } }, (request, reply) => reply.sse([{ event: 'headline', data: { text: 1 } }] as never))
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  t.equal(await (await fetch(`${url}/before`)).text(), 'event: headline\ndata: {"text":"a"}\n\n')
  t.equal((await fetch(`${url}/typed`)).status, 500)
})

t.test('a bad schema of such a route fails at ready, naming it', async t => {
  const app = Fastify()
  app.register(streaming)
  app.get('/typed', { schema: { events: { headline: { type: 'objekt' } } } }, () => {})
  await t.rejects(async () => await app.ready(), { code: 'FST_STREAM_INVALID_SCHEMA', message: /'headline' of GET \/typed/ })
})

t.test('a route of another context, which has no reply.sse(), may have events of its own', async t => {
  const app = Fastify()
  app.get('/typed', { schema: { events: { headline: 'what I call events' } } as never }, async () => 'fine')
  app.register(async app => { await app.register(streaming) })
  t.equal((await app.inject('/typed')).body, 'fine')
})

t.test('such a route refuses to stream where Fastify does not tell of it', async t => {
  const app = Fastify()
  const key = Object.getOwnPropertySymbols(app).find(({ description }) => description === 'fastify.404') as symbol
  app.get('/typed', { schema: { events } }, (request, reply) => reply.sse(['hello']))
  const own = (app as any)[key]
  Object.defineProperty(app, key, { value: undefined, configurable: true })
  await app.register(streaming)
  Object.defineProperty(app, key, { value: own })
  t.equal(internalOf(app, 'no such thing'), undefined)
  t.match((await app.inject('/typed')).json(), { code: 'FST_STREAM_INVALID_SCHEMA', message: /GET \/typed.*declared before the plugin was loaded/ })
})

// Compilers

t.test('Zod checks and serializes the events of its context, and only these', async t => {
  const zod = { headline: z.object({ text: z.string(), at: z.date().optional() }), message: z.string() }
  const server = await serve(t, () => {}, {}, app => {
    app.register(async app => {
      app.setValidatorCompiler(validatorCompiler)
      app.setSerializerCompiler(serializerCompiler)
      app.get('/good', { schema: { events: zod } }, (request, reply) => reply.sse(['hello', { event: 'headline', data: { text: 'a', at: new Date(0), more: 1 } }] as never))
      app.get('/bad', { schema: { events: zod } }, (request, reply) => reply.sse([{ event: 'headline', data: { text: 1 } }] as never))
      app.get('/unchecked', { schema: { events: zod } }, (request, reply) => reply.sse([{ event: 'headline', data: { text: 1 } }] as never, { validate: false }))
    })
    app.get('/json', { schema: { events } }, (request, reply) => reply.sse([{ event: 'headline', data: { text: 1 } }]))
  })
  t.equal(await body(server, '/good'), 'data: hello\n\nevent: headline\ndata: {"text":"a","at":"1970-01-01T00:00:00.000Z"}\n\n')
  for (const path of ['/bad', '/unchecked']) {
    t.match(await failure(server, path), { code: 'FST_STREAM_INVALID_EVENT', message: /'headline' has it: data\/text must be string, got/ })
  }
  t.match(await failure(server, '/json'), { message: /data\/text must be string/ })
})

t.test('compilers that were set on the root are those of routes and channels in plugins of the app', async t => {
  const zod = { message: z.string().min(2) }
  const server = await serve(t, () => {}, {
    before: app => {
      app.setValidatorCompiler(validatorCompiler)
      app.setSerializerCompiler(serializerCompiler)
    }
  }, async app => {
    await app.register(async outer => {
      await outer.register(async inner => {
        inner.get('/typed', { schema: { events: zod } }, (request, reply: any) => reply.sse(['hello']))
        inner.get('/bad', { schema: { events: zod } }, (request, reply: any) => reply.sse(['h']))
        const channel = inner.streaming.channel('news', { events: zod })
        await t.rejects(channel.publish('h' as never), { code: 'FST_STREAM_INVALID_EVENT', message: /data fails too_small/ })
      })
    })
  })
  t.equal(await body(server), 'data: hello\n\n')
  t.match(await failure(server, '/bad'), { code: 'FST_STREAM_INVALID_EVENT', message: /data fails too_small/ })
})

t.test('Zod schemas without its compilers fail at ready', async t => {
  await t.rejects(registered({ message: z.string() }), { code: 'FST_STREAM_INVALID_SCHEMA' })
})

t.test('TypeBox is checked by Ajv, or by its own compiler', async t => {
  const schemas = { headline: Type.Object({ text: Type.String() }) }
  const handler: Handler = (request, reply) => reply.sse([{ event: 'headline', data: { text: 1 } }])
  t.match(await failure(await typed(t, schemas, handler)), { message: /data\/text must be string/ })
  const server = await typed(t, schemas, handler, { before: app => app.setValidatorCompiler(TypeBoxValidatorCompiler) })
  t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message: /data\/text must be string/ })
})

t.test('compilers of the route itself go before those of the app', async t => {
  const server = await serve(t, () => {}, {}, app => {
    app.route({
      method: 'GET',
      url: '/typed',
      schema: { events: { message: {} } },
      validatorCompiler: () => data => ({ value: data }),
      serializerCompiler: () => data => `<${data as string}>`,
      handler: (request, reply) => reply.sse(['mine'])
    })
  })
  t.equal(await body(server), 'data: <mine>\n\n')
})

t.test('what a compiler of one\'s own says of data is told, in whatever form', async t => {
  const validators: Array<[(data: unknown) => unknown, string]> = [
    [() => ({ error: Object.assign(new Error('bad'), { details: [{ path: ['a', 0], type: 'number.max', message: 'hunter2 must be small' }] }) }), ': data/*/* fails number.max'],
    [() => ({ error: [{ instancePath: '/', keyword: 'maximum', message: 'must be small' }] }), ': data must be small'],
    [() => ({ error: [{ instancePath: '/a~1b/', keyword: 'maximum', message: 'must be small' }] }), ': data/*/* must be small'],
    [() => ({ error: [{ instancePath: '', message: 'hunter2 must be small' }] }), ': data does not fit'],
    [() => ({ error: [{}] }), ': data does not fit'],
    [() => ({ error: [{ instancePath: ['a'], path: ['a'] }] }), ': data/* does not fit'],
    [() => ({ error: 'hunter2' }), ''],
    [() => ({ error: [{ instancePath: '', keyword: 'mine', message: 'hunter2 is not allowed' }] }), ': data fails mine'],
    [() => ({ error: [{ instancePath: '', keyword: 'const', message: 'a' }, { instancePath: '', keyword: 'anyOf', message: 'must match a schema in anyOf' }] }), ': data must match a schema in anyOf'],
    [() => ({ error: [{ instancePath: '', keyword: 'maxLength', propertyName: 'hunter2', message: 'must be short' }, { keyword: 'propertyNames' }] }), ': data has a key that must be short'],
    [() => ({ error: new Error('hunter2') }), ''],
    [() => { throw new Error('hunter2') }, ''],
    [() => false, '']
  ]
  for (const [validator, rule] of validators) {
    const server = await serve(t, () => {}, {}, app => {
      app.get('/typed', { schema: { events: { message: {} } }, validatorCompiler: () => validator as never }, (request, reply) => reply.sse(['x']))
    })
    t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message: `An event must be as the schema of 'message' has it${rule}, got '${rule.includes('*') ? 'undefined' : 'a string'}'` })
  }
})

t.test('a validator that answers later, or a serializer that gives no text, is refused', async t => {
  const server = await serve(t, () => {}, {}, app => {
    const schema = { events: { message: {} } }
    const handler: Handler = (request, reply) => reply.sse(['x'])
    app.get('/later', { schema, validatorCompiler: () => (async () => { throw new Error('later') }) as never }, handler)
    app.get('/nothing', { schema, serializerCompiler: () => (() => undefined) as never }, handler)
    app.get('/promise', { schema, serializerCompiler: () => (async () => { throw new Error('later') }) as never }, handler)
    app.get('/fine', { schema, validatorCompiler: () => (() => ({ value: 'x', error: null })) as never }, handler)
  })
  t.match(await failure(server, '/promise'), { code: 'FST_STREAM_INVALID_EVENT', message: /serializes to a string, not to \[object Promise\]/ })
  t.equal(await body(server, '/fine'), 'data: x\n\n')
  t.match(await failure(server, '/later'), { code: 'FST_STREAM_INVALID_EVENT', message: /gives a promise/ })
  t.match(await failure(server, '/nothing'), { code: 'FST_STREAM_INVALID_EVENT', message: /serializes to a string, not to undefined/ })
})

t.test('a serializer that gives what is no JSON is refused', async t => {
  for (const text of ['"a" b', 'undefined', '[undefined]']) {
    const server = await serve(t, () => {}, {}, app => {
      app.get('/typed', { schema: { events: { message: {} } }, serializerCompiler: () => () => text }, (request, reply) => reply.sse(['x']))
    })
    t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message: "An event must be an object whose data serializes to JSON, got 'a string'" })
  }
})

t.test('a schema that contains itself may be one for a compiler of one\'s own', async t => {
  const schema: Record<string, unknown> = { properties: { text: {} } }
  schema.self = schema
  const server = await serve(t, () => {}, {}, app => {
    app.get('/typed', {
      schema: { events: { one: schema } },
      validatorCompiler: () => () => ({ error: [{ instancePath: '/text', keyword: 'type', message: 'must be string' }] }) as never,
      serializerCompiler: () => JSON.stringify
    }, (request, reply: any) => reply.sse([{ event: 'one', data: { text: 1 } }]))
  })
  t.match(await failure(server), { code: 'FST_STREAM_INVALID_EVENT', message: /: data\/text must be string, got 'a number'/ })
})

t.test('a compiler that gives no function fails at ready', async t => {
  await t.rejects(registered({ message: {} }, { validatorCompiler: () => undefined }), { code: 'FST_STREAM_INVALID_SCHEMA', message: /the validator compiler gave undefined, not a function/ })
  await t.rejects(registered({ message: {} }, { serializerCompiler: async () => String }), { code: 'FST_STREAM_INVALID_SCHEMA', message: /the serializer compiler gave \[object Promise\], not a function/ })
})

t.test('Zod without its serializer fails at ready, as in a response', async t => {
  const app = Fastify()
  app.setValidatorCompiler(validatorCompiler)
  await app.register(streaming)
  app.get('/typed', { schema: { events: { message: z.object({ text: z.string() }) } } }, () => {})
  await t.rejects(async () => await app.ready(), { code: 'FST_STREAM_INVALID_SCHEMA' })
})

t.test('a factory of compilers makes those of events, without the liberties that they take with bodies', async t => {
  const handler: Handler = (request, reply) => reply.sse([{ event: 'headline', data: { text: 5 } }])
  const body = { type: 'object', properties: { n: { type: 'integer' } } }
  const ajv = await serve(t, () => {}, { fastify: { schemaController: { compilersFactory: { buildValidator: AjvCompiler() } } } as never }, app => {
    app.post('/body', { schema: { body } }, () => {})
    app.get('/typed', { schema: { events } }, handler)
  })
  t.match(await failure(ajv), { code: 'FST_STREAM_INVALID_EVENT', message: /data\/text must be string/ })
  const own = await serve(t, () => {}, {
    fastify: { schemaController: { compilersFactory: { buildValidator: () => () => (value: unknown) => ({ value }), buildSerializer: () => serializerCompiler } } } as never
  }, app => {
    app.get('/typed', { schema: { events: { message: z.string().min(2) } } }, (request, reply: any) => reply.sse(['hello']))
    app.get('/bad', { schema: { events: { message: z.string().min(9) } } }, (request, reply: any) => reply.sse(['hello']))
  })
  t.equal(await (await fetch(`${own.url}/typed`)).text(), 'data: hello\n\n')
  t.match(await failure(own, '/bad'), { code: 'FST_STREAM_INVALID_EVENT' })
})

t.test('a child has the compilers of its parent, or a controller of its own', async t => {
  const server = await serve(t, () => {}, {}, app => {
    app.register(async app => {
      app.get('/typed', { schema: { events: { message: { type: 'string', maxLength: 1 } } } }, (request, reply: any) => reply.sse(['hello']))
      app.setSchemaController({ compilersFactory: { buildValidator: (() => () => () => true) as never } })
    })
    app.get('/root', { schema: { events: { message: { type: 'string', maxLength: 1 } } } }, (request, reply: any) => reply.sse(['hello']))
  })
  t.equal(await body(server), 'data: hello\n\n')
  t.match(await failure(server, '/root'), { code: 'FST_STREAM_INVALID_EVENT' })
})

t.test('a compiler may throw anything', async t => {
  for (const [thrown, why] of [['x', 'x'], [undefined, 'undefined']]) {
    await t.rejects(registered({ message: {} }, { validatorCompiler: () => { throw thrown } }), {
      code: 'FST_STREAM_INVALID_SCHEMA', message: `The schema of the event 'message' of GET /typed cannot be used: ${why as string}`
    })
  }
})

// Channels

async function withChannel (t: Test, setup?: (app: FastifyInstance) => unknown, options: ServeOptions = {}): Promise<TestServer> {
  return await serve(t, () => {}, options, setup)
}

t.test('a channel with events refuses others when they are published, and keeps what the schemas name', async t => {
  const { app } = await withChannel(t)
  const news = app.streaming.channel('news', { events }) as any
  await t.rejects(news.publish({ event: 'x', data: 1 }), { code: 'FST_STREAM_UNKNOWN_EVENT', message: "The event 'x' is not one of headline, message, the events of the channel 'news'" })
  await t.rejects(news.publish({ event: 'headline', data: { text: 1 } }), { code: 'FST_STREAM_INVALID_EVENT', message: /data\/text must be string/ })
  const items = news.subscribe({ replay: 'all' })
  await news.publish({ event: 'headline', data: { text: 'a', more: 1 } })
  await news.publish('hello')
  t.match((await items.next()).value, { type: 'position' })
  t.match((await items.next()).value, { event: 'headline', data: '{"text":"a"}' })
  t.match((await items.next()).value, { event: 'message', data: 'hello' })
  await items.return()
})

t.test('validate of a channel is its own, or that of the plugin', async t => {
  const { app } = await withChannel(t, undefined, { streaming: { validate: false } })
  const bad = { event: 'headline', data: { text: 1 } } as never
  await t.resolves(app.streaming.channel('a', { events }).publish(bad))
  await t.rejects(app.streaming.channel('b', { events, validate: true }).publish(bad), { code: 'FST_STREAM_INVALID_EVENT' })
})

t.test('a bad schema of a channel fails where it is named', async t => {
  const { app } = await withChannel(t)
  t.throws(() => app.streaming.channel('news', { events: { headline: { type: 'objekt' } } }), { code: 'FST_STREAM_INVALID_SCHEMA', message: /'headline' of the channel 'news'/ })
  t.throws(() => app.streaming.channel('news', { events: {} }), { code: 'FST_STREAM_INVALID_SCHEMA' })
  t.throws(() => app.streaming.channel('news', { events: { gap: headline } }), { code: 'FST_STREAM_INVALID_OPTION', message: /'events' must be without gap and position/ })
  t.throws(() => app.streaming.channel('news', { validate: true }), { code: 'FST_STREAM_INVALID_OPTION', message: /'validate' must be absent/ })
})

t.test('the events of a channel are those it was first named with', async t => {
  const { app } = await withChannel(t)
  const news = app.streaming.channel('news', { events, validate: false })
  t.equal(app.streaming.channel('news'), news)
  t.equal(app.streaming.channel('news', { events: { ...events } }), news)
  for (const options of [{ events: { headline } }, { events: { ...events, message: {} } }, { events: { headline, other: {} } }, { events, validate: true }]) {
    t.throws(() => app.streaming.channel('news', options), { code: 'FST_STREAM_INVALID_OPTION' })
  }
  t.equal(app.streaming.channel('news', { events, validate: false }), news)
  t.equal(app.streaming.channel('news', { events: structuredClone(events) }), news)
  const { type, ...others } = headline
  t.equal(app.streaming.channel('news', { events: { ...events, headline: { ...others, type } } }), news, 'the order of keywords does not matter')
  t.equal((news as any).events, events)
  const checked = app.streaming.channel('checked', { events, validate: true })
  t.equal(app.streaming.channel('checked', { events, validate: true }), checked)
  t.throws(() => app.streaming.channel('checked', { events, validate: false }), { message: /'validate' must be true, as the channel 'checked' has it already/ })
  const any = app.streaming.channel('any')
  t.throws(() => app.streaming.channel('any', { events }), { code: 'FST_STREAM_INVALID_OPTION' })
  t.equal((any as any).events, undefined)
  t.equal(app.streaming.channel('any'), any)
})

t.test('a channel that was named with options while the app started is kept, and one that was named later is not', async t => {
  v8.setFlagsFromString('--expose-gc')
  const collect = vm.runInNewContext('gc') as () => void
  const name = (app: FastifyInstance, name: string) => app.streaming.channel(name, { events, history: { age: 1 } }).name
  const { app } = await withChannel(t, app => { name(app, 'early') })
  let collected = 0
  const registry = new FinalizationRegistry(() => { collected++ })
  registry.register(app.streaming.channel(name(app, 'later')), '')
  await eventually(() => {
    collect()
    return collected === 1 && app.streaming.stats().channels === 0
  })
  t.equal((app.streaming.channel('early') as any).events, events)
  t.equal((app.streaming.channel('later') as any).events, undefined)
  app.streaming.channel('early').close()
  t.equal((app.streaming.channel('early') as any).events, undefined)
})

t.test('a channel that was closed has no other events while its history has some', async t => {
  const { app } = await withChannel(t)
  const name = (events?: object, age = 300_000) => app.streaming.channel('news', { ...events === undefined ? {} : { events }, history: { age } } as never)
  name({ message: {} }).close()
  name({ headline }).close()
  const news = name({ headline })
  await news.publish({ event: 'headline', data: { text: 'a' } })
  news.close()
  t.throws(() => name({ message: {} }), { code: 'FST_STREAM_INVALID_OPTION', message: /'events' must be those that the channel 'news' had before it was closed, as long as its history has them, got 'message'/ })
  t.equal(app.streaming.stats().channels, 0)
  name({ headline }).close()
  const any = name(undefined, 1)
  await any.publish('anything')
  any.close()
  await eventually(() => {
    try {
      name({ message: {} }).close()
      return true
    } catch {
      return false
    }
  })
})

t.test('a channel is compiled by the compilers of the context that names it', async t => {
  await withChannel(t, app => {
    app.register(async app => {
      app.setValidatorCompiler(validatorCompiler)
      app.setSerializerCompiler(serializerCompiler)
      t.equal(app.streaming, app.streaming)
      await t.rejects(app.streaming.channel('zod', { events: { message: z.email() } }).publish('no address' as never), { code: 'FST_STREAM_INVALID_EVENT', message: /data fails invalid_format/ })
    })
  })
})

t.test('a channel is a source of a route that names all its events, and no other is', async t => {
  const server = await withChannel(t, app => {
    const news = app.streaming.channel('news', { events: { headline } })
    const more = app.streaming.channel('more', { events: { headline, other: {} } })
    const any = app.streaming.channel('any')
    const sources: Record<string, unknown> = { good: news, more, any, some: [news, any] }
    for (const [name, source] of Object.entries(sources)) {
      app.get(`/${name}`, { schema: { events } }, (request, reply) => reply.sse(source as never, { replay: 'all' }))
    }
    app.post('/publish', async () => await news.publish({ event: 'headline', data: { text: 'a', more: 1 } } as never))
  })
  await fetch(`${server.url}/publish`, { method: 'POST' })
  const { body: stream } = await fetch(`${server.url}/good`)
  const reader = (stream as ReadableStream).pipeThrough(new TextDecoderStream() as never).getReader()
  let received = ''
  while (!received.includes('event: headline\ndata: {"text":"a"}\n\n')) received += (await reader.read()).value
  await reader.cancel()
  for (const path of ['/more', '/any', '/some']) {
    t.match(await failure(server, path), { statusCode: 500, code: 'FST_STREAM_INVALID_SOURCE', message: /a channel that names its events, all of them among those of the route \(headline, message\)/ })
  }
})

t.test('a channel whose schemas are not those of the route, or that checks less, is no source of it', async t => {
  const zod = z.string()
  const server = await withChannel(t, app => {
    const { channel } = app.streaming
    const loose = channel('loose', { events: { headline: {} } })
    const unchecked = channel('unchecked', { events: { headline }, validate: false })
    const routes: Array<[string, object, object, object?]> = [
      ['/loose', loose, { headline }],
      ['/unchecked', unchecked, { headline }],
      ['/lax', unchecked, { headline }, { validate: false }],
      ['/equal', channel('equal', { events: { headline, yes: true } }), { headline: structuredClone(headline), yes: true }]
    ]
    for (const [path, source, schemas, options] of routes) {
      app.get(path, { schema: { events: schemas } }, (request, reply) => reply.sse(source as never, options))
    }
    app.register(async app => {
      app.setValidatorCompiler(validatorCompiler)
      app.setSerializerCompiler(serializerCompiler)
      const names = app.streaming.channel('zod', { events: { message: zod } })
      app.get('/zod', { schema: { events: { message: zod } } }, (request, reply) => reply.sse(names as never))
      app.get('/zod-min', { schema: { events: { message: z.string().min(2) } } }, (request, reply) => reply.sse(names as never))
      app.get('/zod-like', { schema: { events: { message: z.string() } } }, (request, reply) => reply.sse(names as never))
    })
  }, { fastify: { forceCloseConnections: true } })
  for (const path of ['/zod', '/lax', '/equal']) await t.resolves(opens(server, path))
  for (const [path, rule] of [['/loose', /the schema of the route for 'headline'/], ['/zod-min', /the schema of the route for 'message'/], ['/zod-like', /the schema of the route for 'message'/], ['/unchecked', /a channel that checks its events, as the route does/]] as const) {
    t.match(await failure(server, path), { statusCode: 500, code: 'FST_STREAM_INVALID_SOURCE', message: rule })
  }
})

t.test('a channel of another context is no source where a schema is another thing there', async t => {
  const user = { $ref: 'user#' }
  const secret = { type: 'object', properties: { name: { type: 'string' }, hash: { type: 'string' } } }
  const server = await withChannel(t, async app => {
    const plain = { events: { headline } }
    await app.register(async app => {
      app.addSchema({ $id: 'user', ...secret })
      app.addSchema({ $id: 'admin', type: 'string' })
      await app.streaming.channel('users', { events: { user } }).publish({ event: 'user', data: { name: 'ann', hash: 'hunter2' } })
      app.streaming.channel('plain', plain)
    })
    await app.register(async app => {
      app.addSchema({ $id: 'user', type: 'object', properties: { name: { type: 'string' } } })
      app.get('/public', { schema: { events: { user } } }, (request, reply: any) => reply.sse(app.streaming.channel('users'), { replay: 'all' }))
      t.throws(() => app.streaming.channel('users', { events: { user } }), { code: 'FST_STREAM_INVALID_OPTION', message: /compiled as they were/ })
      app.get('/plain', { schema: plain }, (request, reply: any) => reply.sse(app.streaming.channel('plain', plain)))
    })
    await app.register(async app => {
      app.addSchema({ $id: 'user', ...secret })
      app.get('/equal', { schema: { events: { user } } }, (request, reply: any) => reply.sse(app.streaming.channel('users', { events: { user: { ...user } } })))
    })
    await app.register(async app => {
      app.setSerializerCompiler(() => JSON.stringify)
      app.get('/other', { schema: plain }, (request, reply: any) => reply.sse(app.streaming.channel('plain')))
    })
  }, { fastify: { forceCloseConnections: true } })
  for (const path of ['/public', '/other']) {
    t.match(await failure(server, path), { statusCode: 500, code: 'FST_STREAM_INVALID_SOURCE', message: /and compilers and shared schemas as the route has them/ })
  }
  for (const path of ['/plain', '/equal']) await t.resolves(opens(server, path))
})

/** What a stream sends up to a text, after which it is left. */
async function opens (server: TestServer, path: string, until = 'event: position'): Promise<string> {
  const client = new AbortController()
  const { body } = await fetch(server.url + path, { signal: client.signal })
  const reader = (body as ReadableStream<Uint8Array>).getReader()
  let text = ''
  while (!text.includes(until)) {
    const { value, done } = await reader.read()
    if (done) throw new Error(`it ends: ${text}`)
    text += Buffer.from(value).toString()
  }
  client.abort()
  return text
}

t.test('a filter is asked before the name of an event is looked at', async t => {
  const broker = memoryBroker()
  const others = createChannels({ broker })
  await others.channel('news').publish({ event: 'other', data: 'x' })
  await others.channel('news').publish({ event: 'headline', data: '{"text":"a"}' })
  const server = await withChannel(t, app => {
    const news = app.streaming.channel('news', { events: { headline } })
    const filter = ({ event }: { event: string }) => event !== 'other'
    app.get('/typed', { schema: { events } }, (request, reply) => reply.sse(news as never, { replay: 'all', filter: filter as never }))
  }, { streaming: { broker }, fastify: { forceCloseConnections: true } })
  t.match(await opens(server, '/typed', 'event: headline'), /^event: headline\ndata: {"text":"a"}$/m)
  await others.close()
  await broker.close()
})

t.test('an event in the log of a channel that the route does not name is a source that has thrown', async t => {
  const broker = memoryBroker()
  const others = createChannels({ broker })
  await others.channel('news').publish({ comment: 'no event' })
  await others.channel('news').publish({ event: 'headline', data: '{"text":"a"}' })
  await others.channel('news').publish({ event: 'other', data: 'hunter2' })
  const server = await withChannel(t, app => {
    const news = app.streaming.channel('news', { events: { headline } })
    app.get('/typed', { schema: { events } }, (request, reply) => reply.sse(news as never, { replay: 'all' }))
  }, { streaming: { broker } })
  const text = await body(server)
  t.match(text, /^event: headline\ndata: {"text":"a"}$/m)
  t.match(text, /event: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED"/)
  t.notMatch(text, 'hunter2')
  t.match(await server.outcome(), { reason: 'failed', events: 1, error: { code: 'FST_STREAM_UNKNOWN_EVENT' } })
  await others.close()
  await broker.close()
})

for (const [name, schema, ofRoute, options] of [
  ['the very same schemas', headline, headline, undefined],
  ['equal ones', headline, structuredClone(headline), undefined],
  ['the same ones, and neither checks', headline, headline, { validate: false }]
] as const) {
  t.test(`a channel with ${name} is a source of a route, also when there is nothing to replay`, async t => {
    // fetch() opens a connection in advance once its own is broken.
    const server = await serve(t, () => {}, { fastify: { forceCloseConnections: true } }, app => {
      const news = app.streaming.channel('news', { events: { headline: schema }, ...options } as never)
      app.get('/typed', { schema: { events: { headline: ofRoute } } } as never, (request, reply: any) => reply.sse(news, options))
    })
    const client = new AbortController()
    const response = await fetch(`${server.url}/typed`, { signal: client.signal })
    t.equal(response.status, 200)
    const reader = response.body?.getReader() as ReadableStreamDefaultReader<Uint8Array>
    const next = async () => Buffer.from((await reader.read()).value as Uint8Array).toString()
    t.match(await next(), /event: position/)
    await server.app.streaming.channel('news').publish({ event: 'headline', data: { text: 'a', password: 'hunter2' } })
    t.match(await next(), /^id: .*\nevent: headline\ndata: \{"text":"a"\}\n\n$/)
    client.abort()
    await server.outcome()
  })
}

t.test('channels without an app have nothing to compile events with', async t => {
  const broker = memoryBroker()
  const channels = createChannels({ broker })
  t.throws(() => channels.channel('news', { events }), { code: 'FST_STREAM_INVALID_OPTION', message: /'events' must be absent/ })
  t.throws(() => channels.channel('news', { events: { message: {} } }), { code: 'FST_STREAM_INVALID_OPTION' })
  await channels.close()
  await broker.close()
})
