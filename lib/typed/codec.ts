/**
 * What a schema of events was compiled to: refuses data that does not fit, and makes the text of data that does.
 */
import { isDeepStrictEqual } from 'node:util'
import { FST_STREAM_INVALID_EVENT, kindOf, shown, withCause } from '../errors.ts'
import type { EventCodec } from '../stream/encode.ts'
import { ignoreRejection, isPromiseLike } from '../stream/promise-like.ts'
import type { Compilers } from './compilers.ts'
import { isJsonSchema } from './json-schema.ts'
import type { Owner } from './schemas.ts'
import { causeOf, mainProblem, placeOf, propertyNames, ruleOf } from './problems.ts'

type Validate = ReturnType<Compilers['validator']>

export class SchemaCodec implements EventCodec {
  readonly #schema: unknown
  readonly #isJson: boolean
  /** The schema when it is nothing but JSON. */
  readonly #text: string | undefined
  readonly #compilers: Compilers
  readonly #validate: Validate
  readonly #serialize: (data: unknown) => unknown
  readonly #sameness = new WeakMap<SchemaCodec, boolean>()
  #names: Set<string> | undefined

  /** Throws what the compilers do. */
  private constructor (schema: unknown, text: string | undefined, { method, url }: Owner, compilers: Compilers) {
    this.#schema = schema
    this.#isJson = isJsonSchema(schema)
    this.#text = text
    this.#compilers = compilers
    // As a body: compilers take liberties with what comes as text, such as a querystring.
    this.#validate = aFunction('validator', compilers.validator({ schema, method, url, httpPart: 'body' }))
    this.#serialize = aFunction('serializer', compilers.serializer({ schema, method, url, httpStatus: '200', contentType: 'text/event-stream' }))
  }

  /** What the compilers make of a schema, once for those that are equal. Throws what they do. */
  static of (schema: unknown, owner: Owner, compilers: Compilers): SchemaCodec {
    const text = textOf(schema)
    const { texts, schemas } = compilers.compiled
    // Ajv keeps each schema object for ever: one that is written out anew for each channel would fill the memory.
    const known = text === undefined ? schemas.get(schema as object) : texts.get(text)
    if (known !== undefined) return known
    const codec = new SchemaCodec(schema, text, owner, compilers)
    if (text === undefined) schemas.set(schema as object, codec)
    else texts.set(text, codec)
    return codec
  }

  encode (name: string, data: unknown, isValidating: boolean): string {
    const value = this.#isJson ? this.#attempt(asJson, name, data) : data
    if (isValidating) this.#check(name, value)
    return this.#serialized(name, value)
  }

  isSameAs (other: EventCodec | undefined): boolean {
    if (this === other) return true
    if (!(other instanceof SchemaCodec)) return false
    const known = this.#sameness.get(other)
    if (known !== undefined) return known
    const isSame = this.#hasSchemaOf(other) && this.#compilers.areAs(other.#compilers, this.#text === undefined || /"\$\w*ref"/i.test(this.#text))
    this.#sameness.set(other, isSame)
    return isSame
  }

  #hasSchemaOf (other: SchemaCodec): boolean {
    if (this.#text === undefined) return this.#schema === other.#schema
    return other.#text !== undefined && isDeepStrictEqual(this.#schema, other.#schema)
  }

  #check (name: string, data: unknown): void {
    const result: unknown = this.#attempt(this.#validate, name, data)
    if (result === true) return
    if (isPromiseLike(result)) {
      ignoreRejection(result)
      throw new FST_STREAM_INVALID_EVENT(`one whose schema says at once what fits; that of '${shown(name)}' gives a promise`, kindOf(data))
    }
    if (result === false) throw this.#refusal(name, data, this.#validate.errors)
    // As in a route: what a compiler of one's own gives may have an error.
    const { error } = Object(result) as { error?: unknown }
    if (error !== undefined && error !== null) throw this.#refusal(name, data, error)
  }

  #serialized (name: string, data: unknown): string {
    const text = this.#attempt(this.#serialize, name, data)
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

  /** What is thrown over data is a refusal of it. */
  #attempt<Result> (read: (data: unknown) => Result, name: string, data: unknown): Result {
    try {
      return read(data)
    } catch (cause) {
      throw this.#refusal(name, data, cause)
    }
  }

  /** Says where data does not fit and what the rule is. Its cause, which is for the log, says all in the validator's own words. */
  #refusal (name: string, data: unknown, cause: unknown): Error {
    const problem = mainProblem(cause)
    const rule = `as the schema of '${shown(name)}' has it`
    if (problem === undefined) return withCause(new FST_STREAM_INVALID_EVENT(rule, kindOf(data)), causeOf(cause))
    this.#names ??= propertyNames([this.#schema, this.#compilers.shared])
    const { path, value } = placeOf(problem, data, this.#names)
    return withCause(new FST_STREAM_INVALID_EVENT(`${rule}: data${path} ${ruleOf(problem)}`, kindOf(value)), causeOf(cause))
  }
}

/** What JSON has in the place of an object that says so. */
function asJson (data: unknown): unknown {
  if (typeof data !== 'object' || data === null) return data
  const { toJSON } = data as { toJSON?: unknown }
  return typeof toJSON === 'function' ? toJSON.call(data, '') : data
}

/** The text of a schema that is nothing but JSON; undefined for others. */
function textOf (schema: unknown): string | undefined {
  if (!isJsonSchema(schema)) return undefined
  try {
    const text = JSON.stringify(schema)
    return isDeepStrictEqual(JSON.parse(text), schema) ? text : undefined
  } catch {
    return undefined
  }
}

function aFunction<Compiled> (kind: string, compiled: Compiled): Compiled {
  if (typeof compiled !== 'function') throw new TypeError(`the ${kind} compiler gave ${kindOf(compiled)}, not a function`)
  return compiled
}
