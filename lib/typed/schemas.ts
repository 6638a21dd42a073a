/**
 * Typed events: the schemas of a route or a channel.
 */
import { FST_STREAM_INVALID_SCHEMA, FST_STREAM_UNKNOWN_EVENT, kindOf, shown, withCause } from '../errors.ts'
import { isPlainObject } from '../options.ts'
import type { EventCodec, TypedEvents } from '../stream/encode.ts'
import type { RouteEvents } from '../stream/lifecycle.ts'
import type { Compilers } from './compilers.ts'
import { SchemaCodec } from './codec.ts'
import { isJsonSchema } from './json-schema.ts'
import { causeOf } from './problems.ts'

/** The route, or without a method the channel, that names events. */
export interface Owner {
  method: string
  url: string
}

/** The events that a route or a channel names. Nothing can be encoded before `compile()`. */
export class EventSchemas implements RouteEvents {
  readonly schemas: Record<string, unknown>
  readonly checked: TypedEvents
  readonly unchecked: TypedEvents
  readonly #owner: Owner
  #codecs = new Map<string, EventCodec>()

  /** Throws FST_STREAM_INVALID_SCHEMA for what cannot be schemas of events, `owner` having them. */
  constructor (schemas: unknown, owner: Owner) {
    this.#owner = owner
    if (!isPlainObject(schemas)) throw new FST_STREAM_INVALID_SCHEMA('*', this.#name, `events must be an object with a schema for each name, not ${kindOf(schemas)}`)
    const names = Object.keys(schemas)
    this.schemas = schemas
    this.checked = this.#encoder(true)
    this.unchecked = this.#encoder(false)
    if (names.length === 0) throw new FST_STREAM_INVALID_SCHEMA('*', this.#name, 'events must name at least one event')
    for (const name of names) {
      if (name === '' || /[\r\n\0]/.test(name) || !name.isWellFormed()) {
        throw new FST_STREAM_INVALID_SCHEMA(shown(name), this.#name, 'its name must be one line of well-formed text')
      }
      const schema = schemas[name]
      // Some libraries have schemas that can be called.
      if (!['object', 'function', 'boolean'].includes(typeof schema) || schema === null) {
        throw new FST_STREAM_INVALID_SCHEMA(name, this.#name, `it must be a schema, not ${kindOf(schema)}`)
      }
    }
  }

  /** Throws FST_STREAM_INVALID_SCHEMA for a JSON schema that is none, whatever compiler and shared schemas are still to come. */
  check ({ rules }: Compilers): void {
    if (rules === undefined) return
    for (const [name, schema] of Object.entries(this.schemas)) {
      if (!isJsonSchema(schema) || isOfAnotherDraft(schema)) continue
      this.#attempt(name, () => {
        if (rules(schema) !== true) throw new Error(`schema is invalid: ${causeOf(rules.errors).message}`, { cause: rules.errors })
      })
    }
  }

  /** Throws FST_STREAM_INVALID_SCHEMA. */
  compile (compilers: Compilers): void {
    this.#codecs = new Map(Object.entries(this.schemas).map(([name, schema]) => {
      // With the name, by which compilers that keep what they make for another process can tell the events of a route apart.
      const origin = { method: this.#owner.method, url: `${this.#owner.url}#${name}` }
      return [name, this.#attempt(name, () => SchemaCodec.of(schema, origin, compilers))]
    }))
  }

  #encoder (isValidating: boolean): TypedEvents {
    const codecs = (): Map<string, EventCodec> => this.#codecs
    const codecOf = (name: string): EventCodec => {
      const codec = this.#codecs.get(name)
      if (codec === undefined) {
        const hint = name === 'message' ? '; it is the event without a name, and that of a text' : ''
        throw new FST_STREAM_UNKNOWN_EVENT(shown(name), `${listed(Object.keys(this.schemas))}, the events of ${this.#name}${hint}`)
      }
      return codec
    }
    return {
      schemas: this.schemas,
      isValidating,
      get codecs () { return codecs() },
      encode: (name, data) => codecOf(name).encode(name, data, isValidating),
      checkName: name => { codecOf(name) }
    }
  }

  get #name (): string {
    const { method, url } = this.#owner
    return method === '' ? url : `${method} ${url}`
  }

  #attempt<Result> (name: string, compile: () => Result): Result {
    try {
      return compile()
    } catch (cause) {
      const { message = shown(cause) } = Object(cause) as { message?: string }
      const why = cause instanceof RangeError ? 'it contains itself, or is nested too deeply' : message
      throw withCause(new FST_STREAM_INVALID_SCHEMA(name, this.#name, why), cause)
    }
  }
}

/** Names in an error message, not too many. */
function listed (names: string[]): string {
  return names.length > 20 ? `${names.slice(0, 20).join(', ')}, …` : names.join(', ')
}

/** True where a schema says that the rules of another draft are its own. */
function isOfAnotherDraft (schema: unknown): boolean {
  const { $schema } = Object(schema) as { $schema?: unknown }
  return typeof $schema === 'string' && !$schema.includes('draft-07/schema')
}
