/**
 * One typed event: refuses data that does not fit its schema, and makes the text of data that does.
 */
import { FST_STREAM_INVALID_EVENT, kindOf, shown, withCause } from '../errors.ts'
import { isPlainObject } from '../options.ts'
import { ignoreRejection, isPromiseLike } from '../stream/promise-like.ts'
import type { Compilers } from './compilers.ts'
import { pathOf, problemsOf, problemText, propertyNames, ruleOf } from './problems.ts'

export class TypedEvent {
  readonly #name: string
  readonly #schema: unknown
  readonly #compilers: Compilers
  readonly #isJson: boolean
  #names: Set<string> | undefined
  readonly #validate: ReturnType<Compilers['validator']>
  readonly #serialize: (data: unknown) => unknown

  /** Throws what the compilers do; `owner` has the event. */
  constructor (name: string, schema: unknown, owner: string, compilers: Compilers) {
    this.#name = name
    this.#schema = schema
    this.#compilers = compilers
    this.#isJson = isJsonSchema(schema)
    // As a body: compilers take liberties with what comes as text, such as a querystring.
    this.#validate = compilers.validator({ schema, method: '', url: owner, httpPart: 'body' })
    this.#serialize = compilers.serializer({ schema, method: '', url: owner, httpStatus: '200', contentType: 'text/event-stream' })
  }

  /** The text of the data, which is checked only if it is to be. Throws FST_STREAM_INVALID_EVENT. */
  encode (data: unknown, isValidating: boolean): string {
    const value = this.#isJson ? this.#asJson(data) : data
    if (isValidating) this.#check(value)
    return this.#text(value)
  }

  /** What JSON has in the place of an object that says so. A date is none: it would fit where any text does. */
  #asJson (data: unknown): unknown {
    if (typeof data !== 'object' || data === null || data instanceof Date) return data
    const { toJSON } = data as { toJSON?: unknown }
    if (typeof toJSON !== 'function') return data
    try {
      return toJSON.call(data, '')
    } catch (cause) {
      throw this.#refusal(data, cause)
    }
  }

  #check (data: unknown): void {
    let result: unknown
    try {
      result = this.#validate(data)
    } catch (cause) {
      throw this.#refusal(data, cause)
    }
    if (result === true) return
    if (isPromiseLike(result)) {
      ignoreRejection(result)
      throw new FST_STREAM_INVALID_EVENT(`one whose schema says at once what fits; that of '${shown(this.#name)}' gives a promise`, kindOf(data))
    }
    if (result === false) throw this.#refusal(data, this.#validate.errors)
    // As in a route: what a compiler of one's own gives may have an error.
    const { error } = Object(result) as { error?: unknown }
    if (error !== undefined && error !== null) throw this.#refusal(data, error)
  }

  #text (data: unknown): string {
    let text: unknown
    try {
      text = this.#serialize(data)
    } catch (cause) {
      throw this.#refusal(data, cause)
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

  /** Says where data does not fit and what the rule is. Its cause, which is for the log, says it in the validator's own words. */
  #refusal (data: unknown, cause: unknown): Error {
    const [problem] = problemsOf(cause)
    this.#names ??= propertyNames([this.#schema, this.#compilers.shared])
    const why = problem === undefined ? '' : `: data${pathOf(problem, data, this.#names)} ${ruleOf(problem, this.#isJson)}`
    const error = cause instanceof Error ? cause : Object.assign(new Error(problemText(problem)), { errors: cause })
    return withCause(new FST_STREAM_INVALID_EVENT(`as the schema of '${shown(this.#name)}' has it${why}`, kindOf(data)), error)
  }
}

/** True for what JSON Schema has as a schema, and for what has its form. */
export function isJsonSchema (schema: unknown): schema is boolean | Record<string, unknown> {
  return typeof schema === 'boolean' || isPlainObject(schema)
}
