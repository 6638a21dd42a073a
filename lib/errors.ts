/**
 * Every error of this package, one line of meaning each. Users match `err.code`.
 */
import { inspect, types } from 'node:util'
import createError from '@fastify/error'

/** An option has a wrong value, is unknown, or cannot apply here. */
export const FST_STREAM_INVALID_OPTION = createError<[name: string, rule: string, got: string]>(
  'FST_STREAM_INVALID_OPTION', "Option '%s' must be %s, got '%s'", 500, TypeError)

/** What was handed to `reply.sse()` cannot be read as a stream of events (502 for an unusable fetch `Response`). */
export const FST_STREAM_INVALID_SOURCE = createError<[rule: string, got: string]>(
  'FST_STREAM_INVALID_SOURCE', "The source must be %s, got '%s'", 500, TypeError)

/** An event cannot be encoded: not a string or an event object, an unknown key, or data that does not serialize or does not fit its schema. */
export const FST_STREAM_INVALID_EVENT = createError<[rule: string, got: string]>(
  'FST_STREAM_INVALID_EVENT', "An event must be %s, got '%s'", 500, TypeError)

/** An event has a name that is not among the typed events of its route or channel. */
export const FST_STREAM_UNKNOWN_EVENT = createError<[name: string, names: string]>(
  'FST_STREAM_UNKNOWN_EVENT', "The event '%s' is not one of %s", 500, TypeError)

/** The schema of a typed event cannot be compiled, or its name cannot be that of an event. */
export const FST_STREAM_INVALID_SCHEMA = createError<[name: string, owner: string, why: string]>(
  'FST_STREAM_INVALID_SCHEMA', "The schema of the event '%s' of %s cannot be used: %s")

/** A field of an event has a value that the event stream format cannot carry. */
export const FST_STREAM_INVALID_FIELD = createError<[name: string, rule: string, got: string]>(
  'FST_STREAM_INVALID_FIELD', "The field '%s' of an event must be %s, got '%s'", 500, TypeError)

/** `reply.sse()` or `reply.streamWriter()` was called on a reply that streams already or was sent. */
export const FST_STREAM_ALREADY_STREAMING = createError<[]>(
  'FST_STREAM_ALREADY_STREAMING', 'The reply is streaming already, or was sent')

/** `reply.trailer()` was used; a stream has no trailers. */
export const FST_STREAM_TRAILER = createError<[]>(
  'FST_STREAM_TRAILER', 'A stream cannot have trailers: remove reply.trailer()')

/** Another plugin has decorated the instance or the reply with a name that this plugin needs. */
export const FST_STREAM_NAME_TAKEN = createError<[name: string, by: string]>(
  'FST_STREAM_NAME_TAKEN', '%s is taken by %s: register one of the two in a context of its own')

/** The source of a stream failed. What clients are told when the cause is not for them. */
export const FST_STREAM_SOURCE_FAILED = createError<[]>(
  'FST_STREAM_SOURCE_FAILED', 'The source of the stream failed')

/** A chunk of a body is neither a string nor bytes, or a row of NDJSON does not serialize to one line. */
export const FST_STREAM_INVALID_CHUNK = createError<[rule: string, got: string]>(
  'FST_STREAM_INVALID_CHUNK', "A chunk must be %s, got '%s'", 500, TypeError)

/** The callback of `reply.streamWriter()` neither writes nor waits, round after round. */
export const FST_STREAM_SPINNING = createError<[rounds: number]>(
  'FST_STREAM_SPINNING', 'The streamWriter callback neither wrote nor waited for %s rounds: return false, write, or await something')

/** A limit on open streams is reached (503; 429 for the limit of one client). */
export const FST_STREAM_LIMIT = createError<[limit: string, value: number]>(
  'FST_STREAM_LIMIT', 'Too many streams: %s is %s', 503)

/** A `reply.streamWriter()` ended before its head was sent: the app closes, or its time or its signal was over. */
export const FST_STREAM_UNAVAILABLE = createError<[reason: string]>(
  'FST_STREAM_UNAVAILABLE', 'The stream has ended before it began: %s', 503)

/** A channel was used after its `close()`, or after the app or its broker was closed (503). */
export const FST_STREAM_CLOSED = createError<[channel: string]>(
  'FST_STREAM_CLOSED', "The channel '%s' is closed", 503)

/** The broker did not take an event, or cannot be reached (503). The event may have been published all the same. */
export const FST_STREAM_BROKER_UNAVAILABLE = createError<[why: string]>(
  'FST_STREAM_BROKER_UNAVAILABLE', 'The broker is unavailable: %s', 503)

/** A subscriber with `lag: 'disconnect'` fell out of the history of its channel; iterators throw it. */
export const FST_STREAM_LAGGED = createError<[channel: string]>(
  'FST_STREAM_LAGGED', "A subscriber of the channel '%s' has fallen out of its history")

/** A value as it stands in an error message: one line, shortened. */
export function shown (value: unknown): string {
  const text = typeof value === 'string'
    ? JSON.stringify(value).slice(1, -1)
    : inspect(value, { depth: 0, breakLength: Infinity, compact: true, maxArrayLength: 3 }).split('\n', 1)[0]
  return text.length > 100 ? `${text.slice(0, 100)}…` : text
}

/** What a value is, without what is in it: error messages reach clients, and what an event holds may not be for them. */
export function kindOf (value: unknown): string {
  if (value === null || value === undefined) return String(value)
  return typeof value === 'object' ? tagOf(value) : `a ${typeof value}`
}

/** As `Object.prototype.toString` has it, unless the object would have its say: its tag may be made of what is in it. */
function tagOf (value: object): string {
  try {
    let holder: object | null = value
    while (holder !== null && !Object.hasOwn(holder, Symbol.toStringTag)) holder = Object.getPrototypeOf(holder) as object | null
    const tag = holder === null ? undefined : Object.getOwnPropertyDescriptor(holder, Symbol.toStringTag)
    const isFixed = tag === undefined || types.isTypedArray(value) || (holder !== value && typeof tag.value === 'string')
    return isFixed ? Object.prototype.toString.call(value) : '[object Object]'
  } catch {
    return '[object Object]'
  }
}

/** The error, with what led to it. */
export function withCause (error: Error, cause: unknown): Error {
  error.cause = cause
  return error
}
