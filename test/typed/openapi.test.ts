import '../fixtures/guard.ts'
import path from 'node:path'
import swagger, { type FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import { Validator } from '@seriousme/openapi-schema-validator'
import Fastify, { type FastifyInstance } from 'fastify'
import { jsonSchemaTransform, serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import openapiTS, { astToString } from 'openapi-typescript'
import t, { type Test } from 'tap'
import { Type } from 'typebox'
import ts from 'typescript'
import { z } from 'zod'
import * as mini from 'zod/mini'
import streaming, { transformObject } from '../../lib/index.ts'
import { documented } from '../../lib/typed/openapi.ts'
import { EventSchemas } from '../../lib/typed/schemas.ts'
import { root, write } from '../fixtures/readme.ts'

type Document = Record<string, any>

const headline = { type: 'object', required: ['text'], properties: { text: { type: 'string' }, seen: { type: 'boolean' } }, additionalProperties: false } as const

/** What an app with one route tells of it. */
async function describe (t: Test, version: string, schema: object, options: Partial<FastifyDynamicSwaggerOptions> = {}, before?: (app: FastifyInstance) => void): Promise<{ document: Document, operation: Document, stream: Document }> {
  const app = Fastify()
  before?.(app)
  await app.register(swagger, { openapi: { openapi: version, info: { title: 'News', version: '1' } }, ...options })
  await app.register(streaming)
  app.get('/news', { schema }, (request, reply) => reply.sse([] as never[]))
  await app.ready()
  t.teardown(async () => await app.close())
  const document = app.swagger() as Document
  const operation = document.paths['/news'].get
  return { document, operation, stream: operation.responses[200].content['text/event-stream'] }
}

async function problems (document: Document): Promise<unknown> {
  const { valid, errors } = await new Validator().validate(structuredClone(document))
  return valid ? [] : errors
}

const providers = {
  'JSON Schema': [{ headline, message: { type: 'string' } }, {}, undefined],
  TypeBox: [{
    headline: Type.Object({ text: Type.String(), seen: Type.Optional(Type.Boolean()) }, { additionalProperties: false }), message: Type.String()
  }, {}, undefined],
  Zod: [{ headline: z.object({ text: z.string(), seen: z.boolean().optional() }), message: z.string() }, { transform: jsonSchemaTransform }, (app: FastifyInstance) => {
    app.setValidatorCompiler(validatorCompiler)
    app.setSerializerCompiler(serializerCompiler)
  }]
} as const

for (const [provider, [events, options, before]] of Object.entries(providers)) {
  for (const version of ['3.0.3', '3.1.0', '3.2.0']) {
    t.test(`OpenAPI ${version} has the events of ${provider} in the array form, and is valid`, async t => {
      const { document, stream, operation } = await describe(t, version, { events }, options as never, before)
      t.strictSame(await problems(document), [])
      t.equal(stream.schema.type, 'array')
      const entries: Document[] = stream.schema.items.oneOf
      t.strictSame(entries.map(({ properties }) => properties.event.enum), [['headline'], ['message'], ['position'], ['gap'], ['error'], ['end']])
      t.strictSame(entries.slice(0, 2).map(({ required }) => required), [['event', 'data'], ['data']])
      t.strictSame(entries[0].properties.data, { ...headline })
      t.strictSame(entries[1].properties.data, { type: 'string' })
      t.notOk('itemSchema' in stream)
      t.match(operation.parameters, [{ in: 'header', name: 'Last-Event-ID', required: false, schema: { type: 'string' } }])
    })
  }

  t.test(`transformObject gives OpenAPI 3.2 the events of ${provider} as they are on the wire`, async t => {
    const { document, stream } = await describe(t, '3.2.0', { events }, { ...options as object, transformObject }, before)
    t.strictSame(await problems(document), [])
    t.equal(stream.schema.type, 'array')
    const [first, second, position] = stream.itemSchema.oneOf
    t.strictSame(first.properties.event.enum, ['headline'])
    t.strictSame(first.properties.data, { type: 'string', contentMediaType: 'application/json', contentSchema: { ...headline } })
    t.strictSame(second.properties.data, { type: 'string' })
    t.match(position.properties.data, { type: 'string', contentMediaType: 'application/json' })
  })
}

t.test('transformObject leaves event streams alone that somebody else describes', t => {
  const by = (schema: object, more: object = {}) => ({ openapi: '3.2.0', paths: { '/': { get: { responses: { 200: { content: { 'text/event-stream': { schema, ...more } } } } } } } })
  const entry = { type: 'object', properties: { data: { type: 'string' } } }
  for (const document of [
    by({ type: 'array', items: { oneOf: [{ $ref: '#/components/schemas/A' }] } }),
    by({ type: 'array', items: { oneOf: [entry, { type: 'object', properties: { event: {} } }] } }),
    by({ type: 'array', items: { oneOf: [{ type: 'object', properties: { data: null } }] } }),
    by({ type: 'array', items: { oneOf: [entry] } }, { itemSchema: { type: 'object' } })
  ]) t.strictSame(transformObject({ openapiObject: document }), structuredClone(document))
  t.end()
})

t.test('transformObject leaves 3.0, 3.1 and what has no events as they are', async t => {
  const events = { headline }
  for (const version of ['3.0.3', '3.1.0']) {
    t.notOk('itemSchema' in (await describe(t, version, { events }, { transformObject })).stream)
  }
  const swaggerObject = { swagger: '2.0', paths: { '/': { get: { responses: { 200: { description: '' } } } } } }
  t.equal(transformObject({ swaggerObject }), swaggerObject)
  const bare = { openapi: '3.2.0', paths: { '/': { summary: 'No operation', get: {} } } }
  for (const openapiObject of [{ info: {} }, bare]) t.strictSame(transformObject({ openapiObject }), structuredClone(openapiObject))
})

t.test('data that may be text or JSON is text in an itemSchema', async t => {
  const events = { any: {}, either: { type: ['string', 'object'] }, shared: { $ref: 'headline#' }, word: { enum: ['a', 'b'] }, five: { const: 5 }, mixed: { enum: ['a', 1] } }
  const { stream } = await describe(t, '3.2.0', { events }, { transformObject }, app => { app.addSchema({ $id: 'headline', ...headline }) })
  const [any, either, shared, word, five, mixed] = stream.itemSchema.oneOf.map(({ properties }: Document) => properties.data)
  t.strictSame([any, either, mixed], [{ type: 'string' }, { type: 'string' }, { type: 'string' }])
  t.strictSame(word, { type: 'string', enum: ['a', 'b'] })
  t.match(five, { type: 'string', contentMediaType: 'application/json', contentSchema: {} })
  t.match(shared, { contentMediaType: 'application/json', contentSchema: { $ref: /^#\/components\/schemas\// } })
})

t.test('other responses and other media types stay as they are', async t => {
  const json = { type: 'object', description: 'All of them', properties: { count: { type: 'integer' } } }
  const events = { headline }
  const beside = await describe(t, '3.2.0', { events, response: { 200: json, 404: { type: 'null' } } }, { transformObject })
  t.strictSame(await problems(beside.document), [])
  t.match(beside.operation.responses, { 200: { description: 'All of them', content: { 'application/json': { schema: { properties: { count: {} } } } } }, 404: { description: 'Default Response' } })
  t.ok(beside.stream.itemSchema)
  const xml = { description: 'Feeds', content: { 'application/xml': { schema: { type: 'string' } } } }
  const more = await describe(t, '3.1.0', { events, response: { 200: xml } })
  t.strictSame(Object.keys(more.operation.responses[200].content), ['text/event-stream', 'application/xml'])
  t.equal(more.operation.responses[200].description, 'Feeds')
  const own = { description: 'Mine', content: { 'text/event-stream': { schema: { type: 'string' } } } }
  const mine = await describe(t, '3.2.0', { events, response: { 200: own } }, { transformObject })
  t.strictSame(mine.stream, { schema: { type: 'string' } })
  const nameless = await describe(t, '3.1.0', { events, response: { 200: { type: 'object' } } })
  t.equal(nameless.operation.responses[200].description, 'Server-sent events')
})

t.test('headers keep what they have, and Last-Event-ID is there once', async t => {
  const names = (operation: Document) => operation.parameters.map(({ name }: Document) => name)
  const events = { headline }
  const beside = await describe(t, '3.1.0', { events, headers: { type: 'object', properties: { 'x-user': { type: 'string' } } } })
  t.strictSame(names(beside.operation), ['x-user', 'Last-Event-ID'])
  const own = await describe(t, '3.1.0', { events, headers: { type: 'object', properties: { 'last-event-id': { type: 'string', maxLength: 20 } } } })
  t.strictSame(names(own.operation), ['last-event-id'])
  const elsewhere = { $ref: 'headers#' }
  t.equal(documented({ headers: elsewhere }, new EventSchemas(events, { method: 'GET', url: '/' })).headers, elsewhere)
  const shouted = await describe(t, '3.1.0', { events, headers: { type: 'object', properties: { 'LAST-EVENT-ID': { type: 'string' } } } })
  t.strictSame(names(shouted.operation), ['LAST-EVENT-ID'])
  const bare = await describe(t, '3.1.0', { events, headers: { type: 'object' } })
  t.strictSame(names(bare.operation), ['Last-Event-ID'])
  const [, options, before] = providers.Zod
  const zod = await describe(t, '3.1.0', { events: { headline: z.string() }, headers: z.object({ 'x-user': z.string(), 'x-max': z.string().transform(Number) }) }, options as never, before as never)
  t.match(zod.operation.parameters, [{ name: 'x-user' }, { name: 'x-max', schema: { type: 'string' } }, { name: 'Last-Event-ID' }])
})

t.test('an event of the route that has the name of a control event is described as both', async t => {
  const { document, stream } = await describe(t, '3.1.0', { events: { error: { type: 'string' }, gap: { type: 'integer' } } })
  t.strictSame(await problems(document), [])
  const entries: Document[] = stream.schema.items.oneOf
  t.strictSame(entries.map(({ properties }) => properties.event.enum), [['error'], ['gap'], ['position'], ['end']])
  t.match(entries[0], { description: /The source has failed/, properties: { data: { anyOf: [{ type: 'string' }, { properties: { code: {}, message: {} } }] } } })
  t.match(entries[1], { properties: { data: { anyOf: [{ type: 'integer' }, { properties: { reason: {} } }] } } })
})

t.test('a JSON response beside the stream keeps its headers, its media types and its description', async t => {
  const headers = { 'x-count': { type: 'integer', description: 'How many' } }
  const json = { type: 'object', 'x-response-description': 'All of them', headers, properties: { count: { type: 'integer' } } }
  const events = { headline }
  for (const version of ['3.0.3', '3.1.0']) {
    const both = await describe(t, version, { events, produces: ['application/json', 'application/hal+json'], response: { 200: json } })
    t.strictSame(await problems(both.document), [])
    const { description, headers: described, content } = both.operation.responses[200]
    t.equal(description, 'All of them')
    t.strictSame(described, { 'x-count': { description: 'How many', schema: { type: 'integer' } } })
    t.strictSame(Object.keys(content), ['application/json', 'application/hal+json', 'text/event-stream'])
    t.strictSame(content['application/hal+json'].schema, { type: 'object', properties: { count: { type: 'integer' } } })
    const none = await describe(t, version, { events, response: { 200: { type: 'null', description: 'Nothing' } } })
    t.strictSame(Object.keys(none.operation.responses[200].content), ['text/event-stream'])
    t.equal(none.operation.responses[200].description, 'Nothing')
  }
  const [, options, before] = providers.Zod
  const zod = await describe(t, '3.1.0', { events: { headline: z.string() }, response: { 200: z.object({ count: z.int() }) } }, options as never, before as never)
  t.match(zod.operation.responses[200].content, { 'application/json': { schema: { properties: { count: { type: 'integer' } } } }, 'text/event-stream': { schema: { type: 'array' } } })
})

t.test('Zod is described in the dialect of the document', async t => {
  const [, options, before] = providers.Zod
  const events = { price: z.object({ eur: z.number().positive(), pair: z.tuple([z.string(), z.number()]), none: z.null(), maybe: z.string().nullable() }).describe('A price').meta({ title: 'Price' }) }
  const headers = z.object({ 'x-max': z.coerce.number().positive().optional() })
  const eur = async (version: string) => {
    const { document, stream } = await describe(t, version, { events, headers }, options as never, before as never)
    t.strictSame(await problems(document), [], version)
    t.strictSame(Object.keys(stream.schema), ['type', 'items'], version)
    return stream.schema.items.oneOf[0].properties.data.properties.eur
  }
  t.match(await eur('3.0.3'), { minimum: 0, exclusiveMinimum: true })
  t.match(await eur('3.1.0'), { exclusiveMinimum: 0 })
  t.match(await eur('3.2.0'), { exclusiveMinimum: 0 })
})

t.test('schemas that refer to each other are described once each', async t => {
  const [, options, before] = providers.Zod
  const nodes: z.ZodObject[] = Array.from({ length: 14 }, () => z.object({ get next () { return z.union(nodes) } }))
  const { document } = await describe(t, '3.1.0', { events: { graph: z.object({ root: nodes[0] }) } }, options as never, before as never)
  t.strictSame(await problems(document), [])
  t.ok(JSON.stringify(document).length < 100_000)
})

t.test('Swagger 2.0 has the stream as text, with transformObject', async t => {
  const app = Fastify()
  await app.register(swagger, { transformObject })
  await app.register(streaming)
  const events = { headline }
  app.get('/news', { schema: { events } }, () => {})
  app.get('/both', { schema: { events, response: { 200: { type: 'object', properties: { count: { type: 'integer' } } }, 404: { type: 'object', properties: {} } } } }, () => {})
  app.get('/other', { schema: { response: { 200: { type: 'string' } } } }, () => {})
  await app.ready()
  t.teardown(async () => await app.close())
  const document = app.swagger() as Document
  t.strictSame(await problems(document), [])
  t.match(document.paths['/news'].get, { produces: ['text/event-stream'], parameters: [{ in: 'header', name: 'Last-Event-ID', type: 'string' }], responses: { 200: { description: 'Server-sent events', schema: { type: 'string' } } } })
  t.strictSame(document.paths['/both'].get.produces, ['application/json', 'text/event-stream'])
  t.match(document.paths['/both'].get.responses[200].schema, { type: 'object', properties: { count: { type: 'integer' } } })
  t.strictSame(document.paths['/other'].get, { responses: { 200: { description: 'Default Response', schema: { type: 'string' } } } })
})

t.test('what a schema defines for itself is put in its place, and what refers to itself is anything there', async t => {
  const word = { type: 'string', minLength: 1 }
  const { document, stream } = await describe(t, '3.1.0', {
    events: {
      a: { $id: 'a', $schema: 'http://json-schema.org/draft-07/schema#', type: 'object', definitions: { word }, properties: { one: { $ref: '#/definitions/word' }, list: { type: 'array', items: { $ref: 'a#/definitions/word' } } } },
      tree: { $id: 'tree', type: 'object', $defs: { node: { type: 'object', properties: { next: { $ref: '#/$defs/node' } } } }, properties: { root: { $ref: '#/$defs/node' }, self: { $ref: '#' } } },
      never: false,
      any: true
    }
  })
  t.strictSame(await problems(document), [])
  const [a, tree, never, any] = stream.schema.items.oneOf.map(({ properties }: Document) => properties.data)
  t.strictSame(a, { type: 'object', properties: { one: word, list: { type: 'array', items: word } } })
  t.strictSame(tree, { type: 'object', properties: { root: { type: 'object', properties: { next: {} } }, self: {} } })
  t.strictSame([never, any], [{ not: {} }, {}])
})

t.test('dates of Zod are text, and of zod/mini nothing is known', async t => {
  const [, options, before] = providers.Zod
  const full = await describe(t, '3.1.0', { events: { at: z.object({ day: z.date() }) } }, options as never, before as never)
  t.match(full.stream.schema.items.oneOf[0].properties.data.properties, { day: { type: 'string', format: 'date-time' } })
  const small = await describe(t, '3.1.0', { events: { at: mini.object({ day: mini.string() }) } }, options as never, before as never)
  t.strictSame(small.stream.schema.items.oneOf[0].properties.data, {})
})

t.test('headers of another kind are left alone', async t => {
  class Headers { self = this }
  const app = Fastify()
  app.setValidatorCompiler(() => () => true)
  await app.register(streaming)
  app.get('/', { schema: { headers: new Headers(), events: { one: {} } } }, (request, reply) => reply.sse([{ event: 'one', data: 1 }]))
  t.equal((await app.inject('/')).body, 'event: one\ndata: 1\n\n')
})

t.test('a route that was declared before the plugin is not described, and the log says so', async t => {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } } })
  await app.register(swagger, { openapi: { openapi: '3.1.0' } })
  app.register(streaming)
  app.get('/early', { schema: { events: { headline } } }, (request, reply) => reply.sse([] as never[]))
  app.get('/plain', () => {})
  await app.ready()
  t.equal(lines.length, 1)
  t.match(lines[0], /GET \/early was declared before the plugin was loaded, and its events are not described: await app.register\(\) first/)
  await app.close()
})

t.test('schemas of another kind are not described', async t => {
  class Yup { check = (data: unknown) => data === 1 }
  const app = Fastify()
  app.setValidatorCompiler(({ schema }) => data => (schema as unknown as Yup).check(data))
  app.setSerializerCompiler(() => data => JSON.stringify(data))
  await app.register(swagger, { openapi: { openapi: '3.1.0' } })
  await app.register(streaming)
  app.get('/', { schema: { events: { one: new Yup() } } }, (request, reply) => reply.sse([{ event: 'one', data: 1 }]))
  t.equal((await app.inject('/')).body, 'event: one\ndata: 1\n\n')
  t.strictSame(app.swagger().paths?.['/']?.get?.responses, { 200: { description: 'Default Response' } })
})

t.test('openapi-typescript makes a type of them in which the event tells the data', async t => {
  const files = await Promise.all(Object.entries({ 'JSON Schema': '3.1.0', TypeBox: '3.2.0', Zod: '3.0.3' } as const).map(async ([provider, version], i) => {
    const [events, options, before] = providers[provider as keyof typeof providers]
    const { document } = await describe(t, version, { events }, { ...options, transformObject } as never, before as never)
    const types = astToString(await openapiTS(JSON.stringify(document)))
    return write(t, `generated${i}.ts`, `${types}
type Event = paths['/news']['get']['responses'][200]['content']['text/event-stream'][number]
declare const event: Event
if (event.event === 'headline') { const text: string = event.data.text }
if (event.event === 'error') { const code: string = event.data.code }
const gap: Event = { event: 'gap', data: { reason: 'slow', channel: 'news', after: null } }
// @ts-expect-error
const wrong: Event = { event: 'headline', data: { text: 1 } }
// @ts-expect-error
const unknown: Event = { event: 'headlines', data: { text: 'a' } }
const header: paths['/news']['get']['parameters']['header'] = { 'Last-Event-ID': '1' }
`)
  }))
  const program = ts.createProgram(files, { strict: true, noEmit: true, target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext, types: [], typeRoots: [path.join(root, 'none')] })
  t.strictSame(ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n')), [])
})
