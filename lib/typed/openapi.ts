/**
 * Typed events as OpenAPI has them, for plugins that describe routes by their schemas, such as `@fastify/swagger`.
 * https://spec.openapis.org/oas/v3.2.0.html#sequential-media-types
 */
import type { FastifySchema } from 'fastify'
import { isPlainObject } from '../options.ts'
import type { EventSchemas } from './schemas.ts'

type Json = Record<string, unknown>

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
  if (zod === undefined && !all.every(schema => typeof schema === 'boolean' || isPlainObject(schema))) return schema
  // Whoever reads Zod takes nothing else.
  const as = (json: Json): unknown => zod === undefined ? json : describedAs(zod, json)
  return {
    ...schema,
    headers: withLastEventId(schema.headers, as),
    response: withStream(schema.response as Json | undefined, as({ type: 'array', items: { oneOf: entriesOf(schemas) } }))
  }
}

function entriesOf (schemas: Json): Json[] {
  const entries = Object.entries(schemas).map(([name, schema]) => entry(name, jsonOf(schema, 'output')))
  const controls = Object.entries(controlEvents).filter(([name]) => !Object.hasOwn(schemas, name))
  return [...entries, ...controls.map(([name, { description, data }]) => ({ description, ...entry(name, data) }))]
}

function entry (name: string, data: Json): Json {
  return {
    type: 'object',
    required: name === 'message' ? ['data'] : ['event', 'data'],
    properties: { event: { type: 'string', enum: [name] }, data, id: { type: 'string' }, retry: { type: 'integer', minimum: 0 } }
  }
}

function withStream (response: Json = {}, stream: unknown): Json {
  const media = { [mediaType]: { schema: stream } }
  const given = response['200'] as Json | undefined
  if (given === undefined) return { ...response, 200: { description, content: media } }
  if (isPlainObject(given.content)) return { ...response, 200: { ...given, content: { ...media, ...given.content } } }
  return { ...response, 200: { description: given.description ?? description, content: { 'application/json': { schema: given }, ...media } } }
}

function withLastEventId (headers: unknown, as: (json: Json) => unknown): unknown {
  const json = headers === undefined ? { type: 'object' } : jsonOf(headers, 'input')
  const properties = (json.properties ?? {}) as Json
  // A schema that is elsewhere, or tells of the header itself.
  if (json.$ref !== undefined || Object.keys(properties).some(name => name.toLowerCase() === 'last-event-id')) return headers
  return as({ ...json, properties: { ...properties, 'Last-Event-ID': lastEventId } })
}

interface Zod {
  _zod: object
  toJSONSchema? (options: object): Json
}

function isZod (schema: unknown): schema is Zod {
  return typeof schema === 'object' && schema !== null && '_zod' in schema
}

// A schema of Zod says what it is by this method of its internals, if it has it: https://zod.dev/packages/core#internals
function describedAs (schema: Zod, json: Json): unknown {
  const internals = Object.create(schema._zod, { toJSONSchema: { value: () => json }, parent: { value: undefined } }) as object
  return Object.create(schema, { _zod: { value: internals } })
}

function jsonOf (schema: unknown, io: 'input' | 'output'): Json {
  if (typeof schema === 'boolean') return schema ? {} : { not: {} }
  if (!isZod(schema)) return selfContained(schema as Json)
  return selfContained(schema.toJSONSchema?.({ io, target: 'draft-07', unrepresentable: 'any', override: dateAsText }) ?? {})
}

// As Zod's serializer has it.
function dateAsText ({ zodSchema, jsonSchema }: { zodSchema: { _zod: { def: { type: string } } }, jsonSchema: Json }): void {
  if (zodSchema._zod.def.type === 'date') Object.assign(jsonSchema, { type: 'string', format: 'date-time' })
}

/** The schema with what it defines for itself in place, as it is going to be a part of another one; what refers to itself is anything there. */
function selfContained (root: Json): Json {
  const { $id, $schema, $defs, definitions, ...rest } = root
  const inlined = (node: unknown, within: string[]): unknown => {
    if (Array.isArray(node)) return node.map(item => inlined(item, within))
    if (typeof node !== 'object' || node === null) return node
    const copy = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, inlined(value, within)]))
    const { $ref, ...others } = copy
    const pointer = typeof $ref === 'string' ? localPointer($ref, $id) : undefined
    if (pointer === undefined) return copy
    if (pointer === '' || within.includes(pointer)) return others
    return { ...inlined(lookUp(root, pointer), [...within, pointer]) as Json, ...others }
  }
  return inlined(rest, []) as Json
}

/** Where in the schema itself a reference leads; undefined for one that leads elsewhere. */
function localPointer (ref: string, id: unknown): string | undefined {
  const [base, pointer = ''] = ref.split('#')
  return base === '' || base === id ? pointer : undefined
}

function lookUp (root: unknown, pointer: string): unknown {
  const keys = pointer.split('/').slice(1).map(key => decodeURIComponent(key).replaceAll('~1', '/').replaceAll('~0', '~'))
  return keys.reduce((node, key) => Object(node)[key], root)
}

/**
 * For `transformObject` of `@fastify/swagger`: gives the event streams of an OpenAPI 3.2 document an `itemSchema`, which
 * has the data of an event as the text that it is on the wire. Leaves older documents as they are.
 */
export function transformObject<Document extends object> (document: { openapiObject: Document } | { swaggerObject: unknown }): Document {
  if (!('openapiObject' in document)) return document.swaggerObject as Document
  const { openapiObject } = document
  const { openapi = '', paths = {} } = openapiObject as { openapi?: string, paths?: Record<string, Json> }
  if (/^3\.[01]\./.test(openapi)) return openapiObject
  for (const operation of Object.values(paths).flatMap(path => Object.values(path)) as Json[]) {
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

function isEntry (entry: Json): boolean {
  const { data } = Object(entry.properties) as Json
  return typeof data === 'object' && data !== null
}

function asText (entry: Json, document: object): Json {
  const properties = entry.properties as Json
  return { ...entry, properties: { ...properties, data: dataAsText(properties.data as Json, document) } }
}

function dataAsText (data: Json, document: object): Json {
  const { type } = typeof data.$ref === 'string' ? Object(lookUp(document, data.$ref.slice(1))) as Json : data
  const types = ([] as unknown[]).concat(type)
  if (type === 'string') return data
  // Text and JSON cannot be told apart.
  if (type === undefined || types.includes('string')) return { type: 'string' }
  return { type: 'string', contentMediaType: 'application/json', contentSchema: data }
}
