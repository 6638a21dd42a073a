/**
 * Every option once: what it does, its unit, its default, and the rule that refuses a wrong value.
 */
import type { FastifyRequest } from 'fastify'
import type { Broker, History } from './brokers/broker.ts'
import type { CreateChannelsOptions } from './channel/channels.ts'
import type { LagPolicy } from './channel/cursor.ts'
import type { ChannelEvent } from './channel/frame.ts'
import { FST_STREAM_INVALID_OPTION, kindOf, shown } from './errors.ts'
import { isEventField, type Serialize, type ServerSentEvent } from './stream/encode.ts'
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
  /**
   * Whether the data of typed events has to fit their schemas, in every environment alike. `false` leaves it to their
   * serializers; unknown event names are refused all the same. Default true.
   */
  validate?: boolean
}

/** Options of `app.register(streaming, options)`: the defaults of all streams of this registration, and its limits. */
export interface StreamingOptions extends EventStreamDefaults {
  /** Streams that may be open at once; the next one is refused (503 with `Retry-After`). Default: no limit. */
  maxStreams?: number
  /** Streams that one client may have open at once; the next one is refused (429). Default: no limit. */
  maxStreamsPerClient?: number
  /** Tells clients apart for `maxStreamsPerClient`. Default `request.ip`. */
  clientKey?: (request: FastifyRequest) => string
  /**
   * `'retry'` answers an event stream over a limit with 200, a random `retry` within `shutdown.retry` and the end,
   * because `EventSource` gives up for good on any other status. Default `'refuse'`.
   */
  overload?: 'refuse' | 'retry'
  /** How streams end when the app closes. */
  shutdown?: ShutdownOptions
  /** Carries and keeps the events of channels. Default `memoryBroker()`. */
  broker?: Broker
}

/** Options of `app.streaming.channel(name, options)`. */
export interface ChannelOptions {
  /** How much can be replayed; it holds together for events (default 256), bytes (1 048 576) and age in milliseconds (300 000). */
  history?: Partial<History>
  /** The schema of the data of each event that may be published; `message` is the event without a name. Default: any event. */
  events?: Record<string, unknown>
  /** Whether data has to fit its schema; for channels with `events` only. Default: as the plugin has it. */
  validate?: boolean
}

/** Options of `channel.publish(event, options)`. */
export interface PublishOptions {
  /** What newer events of the same key replace, for subscribers with `lag: 'latest'`. Default: no key. */
  key?: string
  /** An event with the same one is published once, as long as the first is in the history. Default: each call publishes. */
  idempotencyKey?: string
}

/** How a subscriber of channels reads. */
export interface ReadOptions<Events extends object = Record<string, unknown>> {
  /** What a subscriber without a position is given first: all that is retained, or the newest so many events. Default: nothing. */
  replay?: 'all' | number
  /** Which events the subscriber gets. One that throws ends this subscriber and no other. Default: all. */
  filter?: (event: ChannelEvent<Events>, request: FastifyRequest) => boolean
  /**
   * What is done with a subscriber that falls out of the history while it is connected: it is told of the gap and goes
   * on (`'gap'`), it is disconnected (`'disconnect'`, outcome `lagged`), or it gets the newest event of each key (`'latest'`). Default `'gap'`.
   */
  lag?: LagPolicy
}

/** Options of `channel.subscribe(options)`. */
export interface SubscribeOptions<Events extends object = Record<string, unknown>> extends Omit<ReadOptions, 'filter'> {
  /** The id after which to begin. Default: now. */
  after?: string
  /** Which events to give. What it throws is thrown by the iterator. Default: all. */
  filter?: (event: ChannelEvent<Events>) => boolean
  /** Ends the iteration when it aborts. */
  signal?: AbortSignal
}

/** Options of `channel.close(options)`. */
export interface CloseOptions {
  /** Reconnection time that its streams are sent, in milliseconds; a random one within `[min, max]`. Default: not sent. */
  retry?: number | [min: number, max: number]
}

export interface ShutdownOptions {
  /** Reconnection time that event streams are sent, in milliseconds; a random one within `[min, max]`. Default `[1000, 5000]`. */
  retry?: number | [min: number, max: number]
  /** Milliseconds that a `streamWriter` may go on; then it is cut. Default 500. */
  grace?: number
}

/** Options of one `reply.streamWriter()`. */
export interface StreamWriterOptions extends CommonOptions {
  /** Milliseconds to wait for a first byte before the head is sent; `Infinity` waits for it. Default `Infinity`. */
  commitAfter?: number
  /** Ends the stream when it aborts (`aborted`). */
  signal?: AbortSignal
}

/** Options of one `reply.sse()`; `replay`, `filter` and `lag` are for channels only. */
export interface EventStreamOptions<Events extends object = Record<string, unknown>> extends EventStreamDefaults, ReadOptions<Events> {
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
  validate: boolean
  /** The plugin's; runs before the call's. */
  onClosePlugin: CommonOptions['onClose']
  onClose: CommonOptions['onClose']
  signal: AbortSignal | undefined
  reconnect: boolean
  replay: ReadOptions['replay']
  filter: ReadOptions['filter']
  lag: LagPolicy | undefined
}

/** What an option must be, in words and as a check. */
export type Rule = [rule: string, check: (value: unknown) => boolean]

/** Milliseconds; `setTimeout()` fires at once for anything longer. */
export const longestTimer = 2 ** 31 - 1

const duration: Rule = [`milliseconds from 0 to ${longestTimer}`, value => isNumber(value, 0, longestTimer)]
const retryTime: Rule = ['a non-negative safe integer of milliseconds, or [min, max] of such', isRetry]
const aBoolean: Rule = ['true or false', value => typeof value === 'boolean']
const aFunction: Rule = ['a function', value => typeof value === 'function']

const commonRules: Record<string, Rule> = {
  writeTimeout: duration,
  maxDuration: duration,
  maxBuffered: ['a positive safe integer of bytes', isPositiveInteger],
  commitAfter: [`${duration[0]}, or Infinity`, value => value === Infinity || duration[1](value)],
  serialize: aFunction,
  onClose: aFunction
}

const eventStreamRules: Record<string, Rule> = {
  ...commonRules,
  heartbeat: duration,
  retry: retryTime,
  onError: aFunction,
  validate: aBoolean
}

const perCallRules: Record<string, Rule> = {
  signal: ['an AbortSignal', value => value instanceof AbortSignal]
}

export const writerCallRules: Record<string, Rule> = { ...commonRules, ...perCallRules }

const readRules: Record<string, Rule> = {
  replay: ["'all' or a positive safe integer of events", value => value === 'all' || isPositiveInteger(value)],
  filter: aFunction,
  lag: ["'gap', 'disconnect' or 'latest'", value => ['gap', 'disconnect', 'latest'].includes(value as string)]
}

/** Options that are for channels only. */
export const readOptionNames = ['replay', 'filter', 'lag'] as const

export const eventStreamCallRules: Record<string, Rule> = {
  ...eventStreamRules,
  ...perCallRules,
  ...readRules,
  reconnect: aBoolean
}

const aLimit: Rule = ['a positive safe integer, or Infinity', value => value === Infinity || isPositiveInteger(value)]

const pluginRules: Record<string, Rule> = {
  ...eventStreamRules,
  maxStreams: aLimit,
  maxStreamsPerClient: aLimit,
  clientKey: aFunction,
  broker: ['a broker, as memoryBroker() makes one', isBroker],
  overload: ["'refuse' or 'retry'", value => value === 'refuse' || value === 'retry'],
  shutdown: ['an object with retry and grace', isPlainObject]
}

const createChannelsRules: Record<string, Rule> = {
  broker: ['a broker, as redisBroker() makes one', isBroker],
  serialize: aFunction,
  logger: ['a logger with info() and warn()', isLogger]
}

const shutdownRules: Record<string, Rule> = { 'shutdown.retry': retryTime, 'shutdown.grace': duration }

export const defaultLag: LagPolicy = 'gap'

const historyRules: Record<string, Rule> = {
  'history.events': ['a positive safe integer of events', isPositiveInteger],
  'history.bytes': ['a positive safe integer of bytes', isPositiveInteger],
  'history.age': [`milliseconds from 1 to ${longestTimer}`, value => isNumber(value, 1, longestTimer)]
}
const channelRules: Record<string, Rule> = {
  history: ['an object with events, bytes and age', isPlainObject],
  events: ['an object with the schema of each event', isPlainObject],
  validate: aBoolean
}
const text: Rule = ['a non-empty well-formed string', value => typeof value === 'string' && value !== '' && value.isWellFormed()]
const publishRules: Record<string, Rule> = { key: text, idempotencyKey: text }
const subscribeRules: Record<string, Rule> = { ...perCallRules, ...readRules, after: ['a string', value => typeof value === 'string'] }
const closeRules: Record<string, Rule> = { retry: retryTime }

const defaults: ResolvedOptions = {
  heartbeat: 15_000,
  retry: undefined,
  writeTimeout: 30_000,
  maxDuration: 0,
  maxBuffered: 1_048_576,
  commitAfter: 0,
  serialize: JSON.stringify,
  onError: undefined,
  validate: true,
  onClosePlugin: undefined,
  onClose: undefined,
  signal: undefined,
  reconnect: true,
  replay: undefined,
  filter: undefined,
  lag: undefined
}

/** Limits of a registration and how it closes, with every default in place. */
export interface ResolvedLimits {
  maxStreams: number
  maxStreamsPerClient: number
  clientKey: (request: FastifyRequest) => string
  overload: 'refuse' | 'retry'
  shutdown: Required<ShutdownOptions>
}

/**
 * The options of a registration: the defaults of its event streams and of its writers, and its limits.
 * Throws FST_STREAM_INVALID_OPTION naming option, rule and value.
 */
export function resolvePluginOptions (options: unknown): { sse: ResolvedOptions, writer: ResolvedOptions, limits: ResolvedLimits, broker: Broker | undefined } {
  const {
    onClose, broker, maxStreams = Infinity, maxStreamsPerClient = Infinity, clientKey = ipAddress, overload = 'refuse', shutdown = {}, ...rest
  } = checked(options, pluginRules) as StreamingOptions
  checkNested('shutdown', shutdown, shutdownRules)
  const { retry = [1000, 5000], grace = 500 } = shutdown
  const sse: ResolvedOptions = { ...defaults, ...rest, onClosePlugin: onClose }
  return {
    sse,
    // Plugin defaults that do not apply to writers are ignored.
    writer: { ...sse, commitAfter: Infinity, heartbeat: 0, retry: undefined, onError: undefined },
    limits: { maxStreams, maxStreamsPerClient, clientKey, overload, shutdown: { retry, grace } },
    broker
  }
}

/** The options of `channel(name, options)`; what is not given is absent. Throws FST_STREAM_INVALID_OPTION. */
export function resolveChannelOptions (options: unknown = {}): ChannelOptions & { history: Partial<History> } {
  const { history = {}, events, validate } = checked(options, channelRules) as ChannelOptions
  checkNested('history', history, historyRules)
  if (validate !== undefined && events === undefined) throw new FST_STREAM_INVALID_OPTION('validate', 'absent: it is for channels with events only', shown(validate))
  return { history: Object.fromEntries(Object.entries(history).filter(([, value]) => value !== undefined)), events, validate }
}

/** Throws FST_STREAM_INVALID_OPTION. */
export function resolveCreateChannelsOptions (options: unknown): CreateChannelsOptions {
  const resolved = checked(options, createChannelsRules) as Partial<CreateChannelsOptions>
  // Channels of a memory of their own would reach nobody.
  if (resolved.broker === undefined) throw new FST_STREAM_INVALID_OPTION('broker', 'given', 'undefined')
  return resolved as CreateChannelsOptions
}

/** Throws FST_STREAM_INVALID_OPTION for a name that a channel cannot have. */
export function checkChannelName (name: unknown): asserts name is string {
  const isName = typeof name === 'string' && name !== '' && Buffer.byteLength(name) <= 256 && name.isWellFormed()
  if (!isName) throw new FST_STREAM_INVALID_OPTION('name', 'a non-empty string of at most 256 bytes of UTF-8', shown(name))
}

/** Throws FST_STREAM_INVALID_OPTION. */
export function resolvePublishOptions (options: unknown = {}): PublishOptions {
  return checked(options, publishRules)
}

/** Throws FST_STREAM_INVALID_OPTION. */
export function resolveSubscribeOptions (options: unknown = {}): SubscribeOptions {
  return checked(options, subscribeRules)
}

/** Throws FST_STREAM_INVALID_OPTION. */
export function resolveCloseOptions (options: unknown = {}): CloseOptions {
  return checked(options, closeRules)
}

/**
 * The options of one call over those of the registration. What is wrong with them (FST_STREAM_INVALID_OPTION) comes
 * back as `invalid`: it is for the client of this request, by Fastify's error reply.
 */
export function resolveCallOptions (
  options: unknown, rules: Record<string, Rule>, plugin: ResolvedOptions
): { options: ResolvedOptions, invalid?: { error: unknown } } {
  if (options === undefined) return { options: plugin }
  try {
    return { options: { ...plugin, ...checked(options, rules) } }
  } catch (error) {
    return { options: plugin, invalid: { error } }
  }
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

/** The options that are given. Throws FST_STREAM_INVALID_OPTION for the first one that breaks its rule, or that there is no rule for. */
export function checked (options: unknown, rules: Record<string, Rule>): Record<string, unknown> {
  if (!isPlainObject(options)) throw new FST_STREAM_INVALID_OPTION('options', 'an object', shown(options))
  const result: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (rule === undefined) {
      // `reply.sse(event)`: one plain object is always options.
      const isEvent = isEventField(name)
      const hint = isEvent ? '; a single event goes in an array, as [event]' : ''
      throw new FST_STREAM_INVALID_OPTION(name, `one of ${Object.keys(rules).sort().join(', ')} (it is unknown here${hint})`, isEvent ? kindOf(value) : shown(value))
    }
    if (!rule[1](value)) throw new FST_STREAM_INVALID_OPTION(name, rule[0], shown(value))
    result[name] = value
  }
  return result
}

function checkNested (name: string, options: object, rules: Record<string, Rule>): void {
  checked(Object.fromEntries(Object.entries(options).map(([key, value]) => [`${name}.${key}`, value])), rules)
}

function isBroker (value: unknown): boolean {
  return typeof value === 'object' && value !== null &&
    ['publish', 'read', 'tail', 'compare', 'valid', 'ready', 'close'].every(name => typeof (value as Record<string, unknown>)[name] === 'function')
}

function isLogger (value: unknown): boolean {
  return typeof value === 'object' && value !== null && ['info', 'warn'].every(name => typeof (value as Record<string, unknown>)[name] === 'function')
}

function ipAddress (request: FastifyRequest): string {
  // Undefined when the client has reset the connection already.
  return request.ip ?? ''
}

export function isPositiveInteger (value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) > 0
}

export function isNumber (value: unknown, min: number, max: number): boolean {
  return typeof value === 'number' && value >= min && value <= max
}

function isRetry (value: unknown): boolean {
  if (!Array.isArray(value)) return isMilliseconds(value)
  return value.length === 2 && value.every(isMilliseconds) && value[0] <= value[1]
}

function isMilliseconds (value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
