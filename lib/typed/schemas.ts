/**
 * Typed events: the schemas of a route or a channel.
 */
import { FST_STREAM_INVALID_SCHEMA, FST_STREAM_UNKNOWN_EVENT, kindOf, shown, withCause } from '../errors.ts'
import { isPlainObject } from '../options.ts'
import type { TypedEvents } from '../stream/encode.ts'
import type { RouteEvents } from '../stream/lifecycle.ts'
import type { Compilers } from './compilers.ts'
import { isJsonSchema, TypedEvent } from './event.ts'
import { problemText } from './problems.ts'

/** The events that a route or a channel names. Nothing can be encoded before `compile()`. */
export class EventSchemas implements RouteEvents {
  readonly schemas: Record<string, unknown>
  readonly checked: TypedEvents
  readonly unchecked: TypedEvents
  readonly #owner: string
  #compiled = new Map<string, TypedEvent>()

  /** Throws FST_STREAM_INVALID_SCHEMA for what cannot be schemas of events, `owner` having them. */
  constructor (schemas: unknown, owner: string) {
    if (!isPlainObject(schemas)) throw new FST_STREAM_INVALID_SCHEMA('*', owner, `events must be an object with a schema for each name, not ${kindOf(schemas)}`)
    const names = Object.keys(schemas)
    this.schemas = schemas
    this.#owner = owner
    this.checked = this.#encoder(true)
    this.unchecked = this.#encoder(false)
    if (names.length === 0) throw new FST_STREAM_INVALID_SCHEMA('*', owner, 'events must name at least one event')
    for (const name of names) {
      if (name === '' || /[\r\n\0]/.test(name) || !name.isWellFormed()) {
        throw new FST_STREAM_INVALID_SCHEMA(shown(name), owner, 'its name must be one line of well-formed text')
      }
      const schema = schemas[name]
      // Some libraries have schemas that can be called.
      if (!['object', 'function', 'boolean'].includes(typeof schema) || schema === null) {
        throw new FST_STREAM_INVALID_SCHEMA(name, owner, `it must be a schema, not ${kindOf(schema)}`)
      }
    }
  }

  /** Throws FST_STREAM_INVALID_SCHEMA for a JSON schema that is none, whatever compiler and shared schemas are still to come. */
  check ({ rules }: Compilers): void {
    if (rules === undefined) return
    for (const [name, schema] of Object.entries(this.schemas)) {
      if (!isJsonSchema(schema) || isOfAnotherDraft(schema)) continue
      this.#attempt(name, () => {
        if (rules(schema) !== true) throw new Error(`schema is invalid: ${problemText(rules.errors?.[0])}`)
      })
    }
  }

  /** Throws FST_STREAM_INVALID_SCHEMA. */
  compile (compilers: Compilers): void {
    const known = compilers.compiled.get(this.schemas)
    this.#compiled = known ?? new Map(Object.entries(this.schemas).map(([name, schema]) =>
      [name, this.#attempt(name, () => new TypedEvent(name, schema, this.#owner, compilers))]))
    compilers.compiled.set(this.schemas, this.#compiled)
  }

  #encoder (isValidating: boolean): TypedEvents {
    const compiled = (name: string): TypedEvent => {
      const event = this.#compiled.get(name)
      if (event === undefined) throw new FST_STREAM_UNKNOWN_EVENT(shown(name), `${Object.keys(this.schemas).join(', ')}, the events of ${this.#owner}`)
      return event
    }
    return {
      schemas: this.schemas,
      isValidating,
      encode: (name, data) => compiled(name).encode(data, isValidating),
      checkName: name => { compiled(name) }
    }
  }

  #attempt<Result> (name: string, compile: () => Result): Result {
    try {
      return compile()
    } catch (cause) {
      const { message = shown(cause) } = Object(cause) as { message?: string }
      const why = cause instanceof RangeError ? 'it contains itself, or is nested too deeply' : message
      throw withCause(new FST_STREAM_INVALID_SCHEMA(name, this.#owner, why), cause)
    }
  }
}

/** True where a schema says that the rules of another draft are its own. */
function isOfAnotherDraft (schema: unknown): boolean {
  const { $schema } = Object(schema) as { $schema?: unknown }
  return typeof $schema === 'string' && !$schema.includes('draft-07/schema')
}
