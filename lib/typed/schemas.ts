/**
 * Typed events: the schemas of a route or a channel, compiled to what refuses data that does not fit and makes the text
 * of data that does.
 */
import type { FastifyInstance, FastifySchemaCompiler, FastifySerializerCompiler } from 'fastify'
import { FST_STREAM_INVALID_EVENT, FST_STREAM_INVALID_SCHEMA, FST_STREAM_UNKNOWN_EVENT, kindOf, shown, withCause } from '../errors.ts'
import { internalOf } from '../internals.ts'
import { isPlainObject } from '../options.ts'
import type { TypedEvents } from '../stream/encode.ts'
import { ignoreRejection, isPromiseLike } from '../stream/promise-like.ts'

/** What compiles the schemas of a route. */
export interface Compilers {
  validator: FastifySchemaCompiler<unknown>
  serializer: FastifySerializerCompiler<unknown>
}

/** Compilers that a route has for itself. */
export interface OwnCompilers {
  validatorCompiler?: FastifySchemaCompiler<never>
  serializerCompiler?: FastifySerializerCompiler<never>
}

interface SchemaController {
  /** Somebody has set a compiler on the instance, or on one that it is a child of. */
  isCustomValidatorCompiler?: boolean
  isCustomSerializerCompiler?: boolean
  getValidatorBuilder (): (schemas: object, options: object) => Compilers['validator']
  getSerializerBuilder (): (schemas: object, options: unknown) => Compilers['serializer']
}

// Data is to fit as it is: an event is refused, not repaired.
const strict = { coerceTypes: false, useDefaults: false, removeAdditional: false }

/**
 * The compilers of an instance: those that were set on it or on what it is a child of, else Fastify's own with the app's options, whose validator
 * changes nothing of what it is given.
 */
export function compilersOf (app: FastifyInstance, { validatorCompiler, serializerCompiler }: OwnCompilers = {}): Compilers {
  const controller = internalOf(app, 'fastify.schemaController') as SchemaController
  const { ajv, serializerOpts } = internalOf(app, 'fastify.options') as { ajv: { customOptions: object }, serializerOpts?: unknown }
  const schemas = app.getSchemas()
  return {
    validator: (validatorCompiler as unknown as Compilers['validator'] | undefined) ??
      (controller.isCustomValidatorCompiler === true ? app.validatorCompiler as unknown as Compilers['validator'] : undefined) ??
      controller.getValidatorBuilder()(schemas, { ...ajv, customOptions: { ...ajv.customOptions, ...strict } }),
    serializer: (serializerCompiler as unknown as Compilers['serializer'] | undefined) ??
      (controller.isCustomSerializerCompiler === true ? app.serializerCompiler as unknown as Compilers['serializer'] : undefined) ??
      controller.getSerializerBuilder()(schemas, serializerOpts)
  }
}

type Validate = ReturnType<Compilers['validator']>

interface CompiledEvent {
  validate: Validate
  serialize: (data: unknown) => unknown
}

/** The events that a route or a channel names. Nothing can be encoded before `compile()`. */
export class EventSchemas {
  readonly schemas: Record<string, unknown>
  readonly names: string[]
  readonly #owner: string
  readonly #compiled = new Map<string, CompiledEvent>()

  /** Throws FST_STREAM_INVALID_SCHEMA for what cannot be schemas of events, `owner` having them. */
  constructor (schemas: unknown, owner: string) {
    if (!isPlainObject(schemas)) throw new FST_STREAM_INVALID_SCHEMA('*', owner, `events must be an object with a schema for each name, not ${kindOf(schemas)}`)
    this.schemas = schemas
    this.names = Object.keys(schemas)
    this.#owner = owner
    if (this.names.length === 0) throw new FST_STREAM_INVALID_SCHEMA('*', owner, 'events must name at least one event')
    for (const name of this.names) {
      if (name === '' || /[\r\n\0]/.test(name) || !name.isWellFormed()) {
        throw new FST_STREAM_INVALID_SCHEMA(shown(name), owner, 'its name must be one line of well-formed text')
      }
      const schema = schemas[name]
      if ((typeof schema !== 'object' && typeof schema !== 'boolean') || schema === null) {
        throw new FST_STREAM_INVALID_SCHEMA(name, owner, `it must be a schema, not ${kindOf(schema)}`)
      }
    }
  }

  /** Throws FST_STREAM_INVALID_SCHEMA for a schema that no compiler and no shared schema that are still to come could save. */
  check (compilers: Compilers): void {
    for (const name of this.names) {
      if (isFinished(this.schemas[name])) this.#compile(name, compilers)
    }
  }

  /** Throws FST_STREAM_INVALID_SCHEMA. */
  compile (compilers: Compilers): void {
    for (const name of this.names) this.#compiled.set(name, this.#compile(name, compilers))
  }

  /** What refuses events and makes the text of their data; without `validate` the serializers alone refuse data. */
  encoder (validate: boolean): TypedEvents {
    const compiled = (name: string): CompiledEvent => {
      const event = this.#compiled.get(name)
      if (event === undefined) throw new FST_STREAM_UNKNOWN_EVENT(shown(name), `${this.names.join(', ')}, the events of ${this.#owner}`)
      return event
    }
    return {
      schemas: this.schemas,
      isValidating: validate,
      encode: (name, data) => {
        const event = compiled(name)
        if (validate) checkData(name, data, event.validate)
        return serialized(name, data, event.serialize)
      },
      checkName: name => { compiled(name) }
    }
  }

  #compile (name: string, { validator, serializer }: Compilers): CompiledEvent {
    const schema = this.schemas[name]
    try {
      return {
        // As a body: compilers take liberties with what comes as text, such as a querystring.
        validate: validator({ schema, method: '', url: this.#owner, httpPart: 'body' }),
        serialize: serializer({ schema, method: '', url: this.#owner, httpStatus: '200', contentType: 'text/event-stream' })
      }
    } catch (cause) {
      const { message } = Object(cause) as { message?: string }
      throw withCause(new FST_STREAM_INVALID_SCHEMA(name, this.#owner, message ?? shown(cause)), cause)
    }
  }
}

/** True for a JSON schema that refers to no other: what is wrong with it stays wrong. */
function isFinished (schema: unknown): boolean {
  return isPlainObject(schema) && !JSON.stringify(schema).includes('"$ref"')
}

function checkData (name: string, data: unknown, validate: Validate): void {
  let result: unknown
  try {
    result = validate(data)
  } catch (cause) {
    throw refusal(name, data, cause)
  }
  if (result === true) return
  if (isPromiseLike(result)) {
    ignoreRejection(result)
    throw new FST_STREAM_INVALID_EVENT(`one whose schema says at once what fits; that of '${shown(name)}' gives a promise`, kindOf(data))
  }
  if (result === false) throw refusal(name, data, validate.errors)
  // As in a route: what a compiler of one's own gives may have an error.
  const { error } = Object(result) as { error?: unknown }
  if (error !== undefined && error !== null) throw refusal(name, data, error)
}

function serialized (name: string, data: unknown, serialize: (data: unknown) => unknown): string {
  let text: unknown
  try {
    text = serialize(data)
  } catch (cause) {
    throw refusal(name, data, cause)
  }
  if (typeof text !== 'string') {
    ignoreRejection(text)
    throw new FST_STREAM_INVALID_EVENT(`an object whose data serializes to a string, not to ${kindOf(text)}`, kindOf(data))
  }
  const isText = text.startsWith('"')
  // fast-json-stringify writes it for what JSON has no value for, where the schema has no type.
  if (!isText && !text.includes('undefined')) return text
  try {
    const value: unknown = JSON.parse(text)
    // A string is sent as it is, in typed events as in others.
    return isText ? value as string : text
  } catch (cause) {
    throw withCause(new FST_STREAM_INVALID_EVENT('an object whose data serializes to JSON', kindOf(data)), cause)
  }
}

/** Says where data does not fit and what the rule is, but not what is in it: clients may read the message. */
function refusal (name: string, data: unknown, cause: unknown): Error {
  const found = problemsOf(cause)[0]
  const rule = found === undefined ? '' : `: data${pathOf(found)} ${found.message ?? 'does not fit'}`
  return withCause(new FST_STREAM_INVALID_EVENT(`as the schema of '${shown(name)}' has it${rule}`, kindOf(data)), cause)
}

interface Problem {
  /** Of Ajv, and of compilers that speak as it does. */
  instancePath?: string
  /** Of Zod, Joi and others. */
  path?: unknown
  message?: string
}

/** The problems in what a validator or a serializer complains of: a list, or an error that has one, itself or as its cause. */
function problemsOf (cause: unknown): Problem[] {
  if (Array.isArray(cause)) return cause as Problem[]
  const { issues, details, cause: inner } = Object(cause) as { issues?: unknown, details?: unknown, cause?: unknown }
  for (const list of [issues, details]) if (Array.isArray(list)) return list as Problem[]
  return inner === undefined ? [] : problemsOf(inner)
}

function pathOf ({ instancePath, path }: Problem): string {
  const pointer = instancePath ?? (Array.isArray(path) ? path.map(key => `/${String(key)}`).join('') : '')
  return pointer === '/' ? '' : pointer
}
