/**
 * Typed events as OpenAPI has them, for plugins that describe routes by their schemas, such as `@fastify/swagger`.
 * https://spec.openapis.org/oas/v3.2.0.html#sequential-media-types
 */
import type { FastifySchema } from 'fastify'
import { isPlainObject } from '../options.ts'
import { isJsonSchema, lookUp, selfContained, type Json } from './json-schema.ts'
import type { EventSchemas } from './schemas.ts'

const mediaType = 'text/event-stream'
const description = 'Server-sent events'

const text = (description: string): Json => ({ type: 'string', description })
const object = (properties: Json): Json => ({ type: 'object', required: Object.keys(properties), properties })

/** What a client may be sent beside the events of the route. */
const controlEvents: Record<string, { description: string, data: Json }> = {
  position: { description: 'Of a channel: where the stream starts, or stands; `id` is the position', data: { type: 'object' } },
  gap: {
    description: 'Of a channel: events are missing before this one',
    data: object({ reason: { type: 'string', enum: ['trimmed', 'unknown', 'slow'] }, channel: { type: 'string' }, after: { type: ['string', 'null'] } })
  },
  error: { description: 'The source has failed, and the stream ends', data: object({ code: { type: 'string' }, message: { type: 'string' } }) },
  end: { description: 'The answer is complete: do not reconnect', data: { type: 'object' } }
}

const lastEventId = text('The id of the last event that the client has seen')

/**
 * The schema of a route with its event stream as a response, in the array form, and the header of a client that comes
 * back. Schemas that are neither JSON nor Zod are left alone.
 */
export function documented (schema: FastifySchema, { schemas }: EventSchemas): FastifySchema {
  const all = Object.values(schemas)
  const zod = all.find(isZod)
  if (zod === undefined && !all.every(isDescribable)) return schema
  // Whoever reads Zod takes nothing else, and says in what dialect it is to be.
  const as = (json: (target?: string) => Json): unknown => zod === undefined ? json() : describedAs(zod, json)
  const stream = as(target => ({ type: 'array', items: { oneOf: entriesOf(schemas, target) } }))
  return { ...schema, headers: withLastEventId(schema.headers, as), response: withStream(schema, stream) }
}

function entriesOf (schemas: Json, target: string | undefined): Json[] {
  const named = Object.entries(schemas).map(([name, schema]) => {
    const data = jsonOf(schema, 'output', target)
    const own = Object.hasOwn(controlEvents, name) ? controlEvents[name] : undefined
    return own === undefined ? entry(name, data) : { description: own.description, ...entry(name, { anyOf: [data, own.data] }) }
  })
  const controls = Object.entries(controlEvents).filter(([name]) => !Object.hasOwn(schemas, name))
  return [...named, ...controls.map(([name, { description, data }]) => ({ description, ...entry(name, data) }))]
}

function entry (name: string, data: Json): Json {
  return {
    type: 'object',
    required: name === 'message' ? ['data'] : ['event', 'data'],
    properties: { event: { type: 'string', enum: [name] }, data, id: { type: 'string' }, retry: { type: 'integer', minimum: 0 } }
  }
}

/** The responses of a route, the stream among them; what a 200 is besides keeps its headers and media types. */
function withStream ({ response = {}, produces = ['application/json'] }: { response?: unknown, produces?: readonly string[] }, stream: unknown): Json {
  const media = { [mediaType]: { schema: stream } }
  const responses = response as Json
  const given = responses['200']
  if (given === undefined) return { ...responses, 200: { description, content: media } }
  if (!isPlainObject(given)) return { ...responses, 200: { description, content: { ...mediaTypes(produces, given), ...media } } }
  if (isPlainObject(given.content)) return { ...responses, 200: { ...given, content: { ...media, ...given.content } } }
  const { headers, 'x-response-description': told = given.description ?? description, ...schema } = given
  const others = schema.type === 'null' ? {} : mediaTypes(produces, schema)
  return { ...responses, 200: { description: told, ...(headers === undefined ? {} : { headers }), content: { ...others, ...media } } }
}

function mediaTypes (names: readonly string[], schema: unknown): Json {
  return Object.fromEntries(names.map(name => [name, { schema }]))
}

function withLastEventId (headers: unknown, as: (json: (target?: string) => Json) => unknown): unknown {
  if (headers !== undefined && !isDescribable(headers) && !isZod(headers)) return headers
  const json = (target?: string): Json => headers === undefined ? { type: 'object' } : jsonOf(headers, 'input', target)
  const { $ref, properties = {} } = json()
  // A schema that is elsewhere, or tells of the header itself.
  if ($ref !== undefined || Object.keys(properties as Json).some(name => name.toLowerCase() === 'last-event-id')) return headers
  return as(target => {
    const schema = json(target)
    return { ...schema, properties: { ...schema.properties as Json, 'Last-Event-ID': lastEventId } }
  })
}

/** True for a JSON schema that can be written down. */
function isDescribable (schema: unknown): boolean {
  try {
    JSON.stringify(schema)
    return isJsonSchema(schema)
  } catch {
    return false
  }
}

interface Zod {
  _zod: object
  toJSONSchema? (options: object): Json
}

function isZod (schema: unknown): schema is Zod {
  return typeof schema === 'object' && schema !== null && '_zod' in schema
}

// A schema of Zod says what it is by a method of its internals: since 4.2 by one that is told the dialect, before by
// `toJSONSchema`, which still goes first. https://zod.dev/packages/core#internals
function describedAs (schema: Zod, json: (target?: string) => Json): unknown {
  const described: PropertyDescriptorMap = 'processJSONSchema' in schema._zod
    ? { toJSONSchema: { value: undefined }, processJSONSchema: { value: ({ target }: { target: string }, result: Json) => { Object.assign(result, json(target)) } } }
    : { toJSONSchema: { value: json } }
  return Object.create(schema, { _zod: { value: Object.create(schema._zod, { ...described, parent: { value: undefined } }) } })
}

function jsonOf (schema: unknown, io: 'input' | 'output', target = 'draft-07'): Json {
  if (!isZod(schema)) return selfContained(schema as Json | boolean)
  return selfContained(schema.toJSONSchema?.({ io, target, unrepresentable: 'any', override: dateAsText }) ?? {})
}

// As Zod's serializer has it.
function dateAsText ({ zodSchema, jsonSchema }: { zodSchema: { _zod: { def: { type: string } } }, jsonSchema: Json }): void {
  if (zodSchema._zod.def.type === 'date') Object.assign(jsonSchema, { type: 'string', format: 'date-time' })
}

/**
 * For `transformObject` of `@fastify/swagger`: gives the event streams of an OpenAPI 3.2 document an `itemSchema`, which
 * has the data of an event as the text that it is on the wire, and makes them text in a Swagger 2.0 document, which
 * cannot say more. Leaves OpenAPI 3.0 and 3.1 as they are.
 */
export function transformObject<Document extends object> (document: { openapiObject: Document } | { swaggerObject: object }): Document {
  if (!('openapiObject' in document)) return withTextOnly(document.swaggerObject) as Document
  const { openapiObject } = document
  if (/^3\.[01]\./.test((openapiObject as { openapi?: string }).openapi ?? '')) return openapiObject
  for (const operation of operationsOf(openapiObject)) {
    for (const response of Object.values(Object(operation.responses) as object) as Array<{ content?: Record<string, Json> }>) {
      const media = response.content?.[mediaType] as { schema?: { items?: { oneOf?: Json[] } }, itemSchema?: Json } | undefined
      const entries = media?.schema?.items?.oneOf
      // Somebody else may describe an event stream by hand.
      if (media === undefined || entries === undefined || media.itemSchema !== undefined || !entries.every(isEntry)) continue
      media.itemSchema = { oneOf: entries.map(entry => asText(entry, openapiObject)) }
    }
  }
  return openapiObject
}

function operationsOf (document: object): Json[] {
  const { paths = {} } = document as { paths?: Record<string, Json> }
  return Object.values(paths).flatMap(path => Object.values(path)) as Json[]
}

/** In Swagger 2.0 a response has one schema, and the operation its media types. */
function withTextOnly (document: object): object {
  for (const operation of operationsOf(document)) {
    for (const response of Object.values(Object(operation.responses) as object) as Array<{ schema?: { content?: Record<string, Json> } }>) {
      const { [mediaType]: stream, ...others } = response.schema?.content ?? {}
      if (stream === undefined) continue
      const [other] = Object.values(others)
      Object.assign(operation, { produces: [...Object.keys(others), mediaType] })
      Object.assign(response, { schema: other?.schema ?? { type: 'string' } })
    }
  }
  return document
}

function isEntry (entry: Json): boolean {
  const { data } = Object(entry.properties) as Json
  return typeof data === 'object' && data !== null
}

function asText (entry: Json, document: object): Json {
  const properties = entry.properties as Json
  return { ...entry, properties: { ...properties, data: dataAsText(properties.data as Json, document) } }
}

function dataAsText (data: Json, document: object): Json {
  const types = typesOf(data, document)
  // Text and JSON cannot be told apart.
  if (types === undefined) return { type: 'string' }
  if (types.every(type => type === 'string')) return { type: 'string', ...data }
  return types.includes('string') ? { type: 'string' } : { type: 'string', contentMediaType: 'application/json', contentSchema: data }
}

/** The types that data may have by what its schema says itself; undefined when it says none. */
function typesOf (data: Json, document: object): unknown[] | undefined {
  // A const has become an enum.
  const { $ref, type, enum: values } = data
  if (typeof $ref === 'string') return typesOf({ ...Object(lookUp(document, $ref.slice(1))), $ref: undefined } as Json, document)
  if (type !== undefined) return ([] as unknown[]).concat(type)
  return Array.isArray(values) ? values.map(value => typeof value) : undefined
}
