/**
 * Every option once: what it does, its unit, its default, and the rule that refuses a wrong value.
 */
import type { FastifyRequest } from 'fastify'
import { FST_STREAM_INVALID_OPTION, shown } from './errors.ts'
import type { Serialize, ServerSentEvent } from './stream/encode.ts'
import type { StreamOutcome } from './stream/lifecycle.ts'

/** Options of every stream; as plugin options they are the defaults of all streams. */
export interface CommonOptions {
  /** Milliseconds without progress, while bytes wait for the client, after which a stream is cut (`stalled`); 0 turns it off. Default 30 000. */
  writeTimeout?: number
  /** Milliseconds after which a stream is ended (`expired`), at a random 80 to 100 % of it; 0 turns it off. Default 0. */
  maxDuration?: number
  /** Bytes that may wait when one more is sent without waiting for room; more cut the stream (`overflow`). Default 1 048 576. */
  maxBuffered?: number
  /** Milliseconds to wait for a first event before the head is sent; 0 is one turn of the event loop, `Infinity` waits for the first event. Default 0. */
  commitAfter?: number
  /** Turns data that is neither a string nor bytes into text. Default `JSON.stringify`. */
  serialize?: Serialize
  /** Told the outcome of each stream, once, before the stream's promise settles. The plugin's and the call's both run. What it throws is logged. */
  onClose?: (outcome: StreamOutcome, request: FastifyRequest) => void
}

/** Options that only event streams have. */
export interface EventStreamDefaults extends CommonOptions {
  /** Milliseconds of silence before a comment is sent (at most 1.5 times that); 0 turns heartbeats off. Default 15 000. */
  heartbeat?: number
  /** The client's reconnection time in milliseconds, sent first; `[min, max]` picks a random value for each stream. Default: not sent. */
  retry?: number | [min: number, max: number]
  /**
   * Makes the event that tells the client of a source that failed after the head; `null` sends none.
   * The call's replaces the plugin's. What it throws is logged, and the default event is sent.
   */
  onError?: (error: unknown, request: FastifyRequest) => ServerSentEvent | null
}

/** Options of `app.register(streaming, options)`: the defaults of all streams of this registration. */
export interface StreamingOptions extends EventStreamDefaults {}

/** Options of one `reply.sse()`. */
export interface EventStreamOptions extends EventStreamDefaults {
  /** Ends the stream when it aborts (`aborted`). */
  signal?: AbortSignal
  /**
   * `false` for an answer that ends: `EventSource` is told to stop when the stream has completed, instead of
   * asking for it again for ever. Default true.
   */
  reconnect?: boolean
}

/** The options of a stream with every default in place. */
export interface ResolvedOptions {
  heartbeat: number
  retry: number | [min: number, max: number] | undefined
  writeTimeout: number
  maxDuration: number
  maxBuffered: number
  commitAfter: number
  serialize: Serialize
  onError: EventStreamDefaults['onError']
  /** The plugin's; runs before the call's. */
  onClosePlugin: CommonOptions['onClose']
  onClose: CommonOptions['onClose']
  signal: AbortSignal | undefined
  reconnect: boolean
}

type Rule = [rule: string, check: (value: unknown) => boolean]

// setTimeout() fires at once for anything longer.
const longestTimer = 2 ** 31 - 1

const duration: Rule = [`milliseconds from 0 to ${longestTimer}`, value => isNumber(value, 0, longestTimer)]
const aFunction: Rule = ['a function', value => typeof value === 'function']

const commonRules: Record<string, Rule> = {
  writeTimeout: duration,
  maxDuration: duration,
  maxBuffered: ['a positive safe integer of bytes', value => Number.isSafeInteger(value) && (value as number) > 0],
  commitAfter: [`${duration[0]}, or Infinity`, value => value === Infinity || duration[1](value)],
  serialize: aFunction,
  onClose: aFunction
}

const eventStreamRules: Record<string, Rule> = {
  ...commonRules,
  heartbeat: duration,
  retry: ['a non-negative safe integer of milliseconds, or [min, max] of such', isRetry],
  onError: aFunction
}

const perCallRules: Record<string, Rule> = {
  signal: ['an AbortSignal', value => value instanceof AbortSignal]
}

export const pluginRules = eventStreamRules

export const eventStreamCallRules: Record<string, Rule> = {
  ...eventStreamRules,
  ...perCallRules,
  reconnect: ['true or false', value => typeof value === 'boolean']
}

const defaults: ResolvedOptions = {
  heartbeat: 15_000,
  retry: undefined,
  writeTimeout: 30_000,
  maxDuration: 0,
  maxBuffered: 1_048_576,
  commitAfter: 0,
  serialize: JSON.stringify,
  onError: undefined,
  onClosePlugin: undefined,
  onClose: undefined,
  signal: undefined,
  reconnect: true
}

/** The options of a registration. Throws FST_STREAM_INVALID_OPTION naming option, rule and value. */
export function resolvePluginOptions (options: unknown): ResolvedOptions {
  const { onClose, ...rest } = checked(options, pluginRules) as StreamingOptions
  return { ...defaults, ...rest, onClosePlugin: onClose }
}

/** The options of one call over those of the registration. Throws FST_STREAM_INVALID_OPTION. */
export function resolveCallOptions (options: unknown, rules: Record<string, Rule>, plugin: ResolvedOptions): ResolvedOptions {
  return options === undefined ? plugin : { ...plugin, ...checked(options, rules) }
}

/** The reconnection time to send; a random one within `[min, max]`. */
export function pickRetry (retry: number | [min: number, max: number]): number {
  if (typeof retry === 'number') return retry
  const [min, max] = retry
  return min + Math.floor(Math.random() * (max - min + 1))
}

/** True for an object literal or one without prototype: what the first argument of `reply.sse()` is when it is options. */
export function isPlainObject (value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function checked (options: unknown, rules: Record<string, Rule>): Record<string, unknown> {
  if (!isPlainObject(options)) throw new FST_STREAM_INVALID_OPTION('options', 'an object', shown(options))
  const result: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (rule === undefined) {
      throw new FST_STREAM_INVALID_OPTION(name, `one of ${Object.keys(rules).sort().join(', ')} (it is unknown here)`, shown(value))
    }
    if (!rule[1](value)) throw new FST_STREAM_INVALID_OPTION(name, rule[0], shown(value))
    result[name] = value
  }
  return result
}

function isNumber (value: unknown, min: number, max: number): boolean {
  return typeof value === 'number' && value >= min && value <= max
}

function isRetry (value: unknown): boolean {
  if (!Array.isArray(value)) return isMilliseconds(value)
  return value.length === 2 && value.every(isMilliseconds) && value[0] <= value[1]
}

function isMilliseconds (value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
