/**
 * `reply.sse()`: an event stream on one reply.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Channel, ChannelItem } from '../channel/channel.ts'
import { FST_STREAM_INVALID_OPTION, FST_STREAM_INVALID_SOURCE, kindOf, shown } from '../errors.ts'
import { eventStreamCallRules, isPlainObject, readOptionNames, pickRetry, resolveCallOptions, type EventStreamOptions, type ResolvedOptions } from '../options.ts'
import { encodeEvent, END_ID, isComment, retryLine, type EventItem, type TypedEvents } from './encode.ts'
import { bringsLastEventId, readLastEventId } from './last-event-id.ts'
import type { SharedChunk } from './framing.ts'
import { Lifecycle, refused, type Farewell, type Host, type StreamOutcome } from './lifecycle.ts'
import type { LiveReader, LiveTarget } from './live.ts'
import { claim } from './payload.ts'
import { ignoreRejection, isPromiseLike } from './promise-like.ts'
import { openRelay, RelayedBlocks } from './relay.ts'
import { isResponse, openSource, releaseUnread } from './source.ts'

/** An open event stream. Where events are typed, `Events` has the type of the data of each event name. */
export interface EventStream<Events extends object = Record<string, unknown>> {
  /**
   * Sends one event. Resolves `true` once it is accepted and there is room for the next one, `false` when the stream
   * has ended. Never rejects because the client left; rejects with FST_STREAM_INVALID_EVENT, FST_STREAM_UNKNOWN_EVENT or
   * FST_STREAM_INVALID_FIELD, which is also logged at warn, needs no handler, and leaves the stream open.
   * What is sent without waiting queues up to `maxBuffered` bytes. May be passed around unbound.
   */
  send (this: void, event: EventItem<Events>): Promise<boolean>
  /** Sends a comment, which clients ignore; each line becomes a comment line. Resolves as `send` does. */
  readonly comment: (text?: string) => Promise<boolean>
  /** Ends the stream properly (`closed`). Does nothing when it has ended. */
  readonly close: () => void
  /** Settles with the outcome after the response has closed. Never rejects. */
  readonly closed: Promise<StreamOutcome>
  /** Aborts as soon as the stream ends, also when the client leaves; its reason is an `AbortError` with the `reason` of the outcome. */
  readonly signal: AbortSignal
  readonly isOpen: boolean
  /**
   * The last event ID that the client has seen: of the `Last-Event-ID` header, else of the first `lastEventId` in the
   * query string; '' when there is none, or one of over 1,024 bytes or with control characters.
   */
  readonly lastEventId: string
  /** Bytes that wait for the client. */
  readonly bufferedBytes: number
  /** Events accepted so far. */
  readonly events: number
  /** Bytes of the body so far. */
  readonly bytes: number
}

/** What `reply.sse()` reads from. Where events are typed, its items are of `Events`, and a `Response` cannot be checked. */
export type EventSource<Events extends object = Record<string, unknown>> = string extends keyof Events
  ? AnySource<unknown> | NodeJS.ReadableStream | Response | Channel<any> | Array<Channel<any>>
  : AnySource<EventItem<Events>> | ChannelOf<Events> | Array<ChannelOf<Events>>

/** A channel that names its events, all of them among those of `Events`. */
interface ChannelOf<Events extends object> {
  readonly events: object
  subscribe (): AsyncIterableIterator<ChannelItem<Events>>
}

type AnySource<Item> =
  | AsyncIterable<Item>
  // A string is iterable, too.
  | (Iterable<Item> & object)
  | ReadableStream<Item>

/** Called once; what it returns or resolves with is consumed as a source, and `undefined` from a promise ends the stream. */
export type EventSourceFunction<Events extends object = Record<string, unknown>> =
  (stream: EventStream<Events>, signal: AbortSignal) => EventSource<Events> | undefined | void | Promise<EventSource<Events> | undefined | void>

const sourceRule = 'an (async) iterable, a stream, a text/event-stream Response or a function; wrap a single event in an array, as [event]'
// Milliseconds of silence after which a filtered stream without heartbeats tells the client its position.
const checkpointTime = 15_000
const endBlock = `event: end\nid: ${END_ID}\ndata: {}\n\n`

/**
 * Runs `reply.sse(...args)`. Throws FST_STREAM_ALREADY_STREAMING; every other error becomes Fastify's error reply.
 * Resolves with the outcome, or without a source with the open stream.
 */
export function sendEventStream (host: Host, reply: FastifyReply, args: unknown[], plugin: ResolvedOptions): Promise<StreamOutcome | EventStream> {
  const isBare = args.length === 0 || (args.length === 1 && isPlainObject(args[0]) && !isIterable(args[0]))
  const [source, callOptions] = isBare ? [waitForClose, args[0]] : args
  claim(reply, source)
  const { options, invalid } = resolveCallOptions(callOptions, eventStreamCallRules, plugin)
  const stream = new EventStreamReply(host, reply, options)
  stream.start(source, invalid ?? stream.resolveEvents(callOptions as EventStreamOptions | undefined))
  return isBare ? stream.open : stream.closed
}

class EventStreamReply extends Lifecycle implements LiveTarget {
  readonly kind = 'sse'
  #onOpen: ((stream: EventStream) => void) | undefined
  #publicStream: EventStream | undefined
  #bytesAfterRelay = 0
  /** When the source is channels. */
  #live: LiveReader | undefined
  /** When the route names its events. */
  #typed: TypedEvents | undefined

  /** Resolves with the stream once its head has been written, or once it has closed without one. */
  get open (): Promise<EventStream> {
    return new Promise(resolve => { this.#onOpen = resolve })
  }

  get lastEventId (): string {
    return readLastEventId(this.reply.request)
  }

  /** Looks what events the route names. Returns what makes the reply an error. */
  resolveEvents (options: EventStreamOptions | undefined): { error: unknown } | undefined {
    // Its source is not started.
    if (this.reply.request.method === 'HEAD') return undefined
    try {
      const events = this.host.eventsOf(this.reply)
      const [name, rule] = events === undefined ? ['validate', 'it is for routes with schema.events only'] as const : ['serialize', 'the events of this route have serializers of their own'] as const
      if (options?.[name] !== undefined) throw new FST_STREAM_INVALID_OPTION(name, `absent: ${rule}`, shown(options[name]))
      this.#typed = this.options.validate ? events?.checked : events?.unchecked
      return undefined
    } catch (error) {
      return { error }
    }
  }

  send (event: unknown): Promise<boolean> {
    if (!this.isOpen) return refused
    try {
      return this.push(encodeEvent(event, this.options.serialize, this.#typed), isComment(event) ? 0 : 1)
    } catch (error) {
      return this.reject(error)
    }
  }

  comment (text: unknown = ''): Promise<boolean> {
    return this.send({ comment: text })
  }

  override gave (value: unknown): boolean {
    return value === this.#publicStream
  }

  protected isDone (): boolean {
    return !this.options.reconnect && this.lastEventId === END_ID
  }

  protected run (source: unknown): void {
    if (typeof source === 'function') this.#call(source as EventSourceFunction)
    else this.#consume(source)
  }

  protected contentHeaders (): Record<string, string> {
    // Those of a relayed Response, for example: nobody knows the length of an event stream.
    if (this.reply.hasHeader('content-length')) this.reply.removeHeader('content-length')
    const type = this.reply.getHeader('content-type')
    const isEventStream = typeof type === 'string' && /^text\/event-stream\s*(;|$)/i.test(type)
    return isEventStream ? {} : { 'content-type': 'text/event-stream' }
  }

  protected prelude (): string {
    const { retry } = this.options
    const line = retry === undefined ? '' : retryLine(pickRetry(retry))
    // It goes before blocks that wait for the head, and does not stand between them and what follows.
    this.#bytesAfterRelay += line.length
    return line
  }

  protected farewell (reason: StreamOutcome['reason'], error: unknown): Farewell {
    switch (reason) {
      case 'stalled':
      case 'overflow':
        return 'cut'
      case 'failed':
        return { last: this.#errorBlock(error) }
      case 'shutdown':
        return { last: retryLine(pickRetry(this.host.limits.shutdown.retry)) }
      case 'completed':
      case 'closed':
        return { last: this.options.reconnect ? '' : endBlock }
      default:
        return { last: '' }
    }
  }

  protected errorReply (): undefined {}

  protected take (item: unknown): void {
    if (item instanceof RelayedBlocks) this.#relay(item)
    else this.accept(encodeEvent(item, this.options.serialize, this.#typed), isComment(item) ? 0 : 1)
  }

  protected override headWritten (): void {
    this.#onOpen?.(this.#public)
    this.#onOpen = undefined
  }

  get #public (): EventStream {
    this.#publicStream ??= new PublicEventStream(this)
    return this.#publicStream
  }

  #call (source: EventSourceFunction): void {
    try {
      const result: unknown = source(this.#public, this.signal)
      if (result === undefined) return this.#refuseReadOptions()
      if (!isPromiseLike(result)) return this.#consume(result)
      Promise.resolve(result).then(
        resolved => { if (resolved === undefined) this.end('completed'); else this.#consume(resolved) },
        error => { this.fail(error) })
    } catch (error) {
      this.fail(error)
    }
  }

  override get heartbeat (): number {
    const { heartbeat } = this.options
    return heartbeat === 0 && this.#live?.isFiltered === true ? checkpointTime : heartbeat
  }

  protected override sign (): string | SharedChunk {
    return this.#live?.checkpoint() ?? (this.options.heartbeat > 0 ? super.sign() : '')
  }

  #consume (source: unknown): void {
    if (!this.isOpen) return releaseUnread(source)
    let follow
    try {
      follow = this.host.openChannels(source, this.#typed)
      if (follow !== undefined) return this.#follow(follow)
      this.#refuseReadOptions()
      if (this.#typed !== undefined && isResponse(source)) {
        throw new FST_STREAM_INVALID_SOURCE('of events that can be checked, as the route names its events; a Response is passed on as it is', kindOf(source))
      }
    } catch (error) {
      releaseUnread(source)
      return this.end('failed', error)
    }
    this.consume(source, source => isResponse(source) ? openRelay(source, this.options.maxBuffered) : openSource(source), sourceRule)
  }

  #refuseReadOptions (): void {
    for (const name of readOptionNames) {
      if (this.options[name] !== undefined) throw new FST_STREAM_INVALID_OPTION(name, 'absent: it is for channels only', shown(this.options[name]))
    }
  }

  #follow (follow: (target: LiveTarget) => LiveReader): void {
    const live = follow(this)
    // What it was given at once may have ended the stream.
    if (!this.isOpen) return live.release()
    this.#live = live
    this.hold(live)
    // It may need one only now.
    if (this.options.heartbeat === 0) this.startHeartbeat()
  }

  get request (): FastifyRequest {
    return this.reply.request
  }

  get resumesAfter (): string | undefined {
    return bringsLastEventId(this.request) ? this.lastEventId : undefined
  }

  get hasRoom (): boolean {
    return this.connection.hasRoom
  }

  room (): Promise<boolean> {
    return this.connection.room()
  }

  write (blocks: string | SharedChunk, events: number): void {
    this.accept(blocks, events)
  }

  flush (): void {
    this.connection.flushNow()
  }

  #relay ({ bytes, events, continuesLineBreak }: RelayedBlocks): void {
    // The line break was CR alone if something of ours stands between.
    const isInterrupted = continuesLineBreak && this.connection.bytes !== this.#bytesAfterRelay
    this.accept(isInterrupted ? bytes.subarray(1) : bytes, events)
    this.#bytesAfterRelay = this.connection.bytes
  }

  #errorBlock (error: unknown): string {
    const { onError, serialize } = this.options
    if (onError !== undefined) {
      try {
        const event = onError(error, this.reply.request)
        // Refused below.
        ignoreRejection(event)
        return event === null ? '' : encodeEvent(event, serialize)
      } catch (cause) {
        this.reply.log.error({ err: cause }, 'onError failed')
      }
    }
    return encodeEvent({ event: 'error', data: JSON.stringify(publicError(error)) }, serialize)
  }
}

class PublicEventStream implements EventStream {
  readonly #stream: EventStreamReply
  readonly closed: Promise<StreamOutcome>
  readonly send: EventStream['send']
  readonly comment: EventStream['comment']
  readonly close: EventStream['close']

  constructor (stream: EventStreamReply) {
    this.#stream = stream
    this.closed = stream.closed
    this.send = event => stream.send(event)
    this.comment = text => stream.comment(text)
    this.close = () => { stream.end('closed') }
  }

  get signal (): AbortSignal { return this.#stream.signal }
  get isOpen (): boolean { return this.#stream.isOpen }
  get lastEventId (): string { return this.#stream.lastEventId }
  get bufferedBytes (): number { return this.#stream.bufferedBytes }
  get events (): number { return this.#stream.events }
  get bytes (): number { return this.#stream.bytes }
}

/** What a client may know of an error. */
function publicError (error: unknown): { code: string, message: string } {
  const known = { code: 'FST_STREAM_SOURCE_FAILED', message: 'Internal Server Error' }
  try {
    const { statusCode, expose, code, message } = Object(error) as Record<string, unknown>
    const isForClients = (typeof statusCode === 'number' && statusCode < 500) || expose === true
    if (isForClients && typeof code === 'string') known.code = code
    if (isForClients && typeof message === 'string') known.message = message
  } catch {
    // An error whose properties throw tells nothing.
  }
  return known
}

function waitForClose (): undefined {}

function isIterable (value: object): boolean {
  return Symbol.asyncIterator in value || Symbol.iterator in value
}
