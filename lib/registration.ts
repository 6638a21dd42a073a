/**
 * What one `app.register(streaming)` keeps of its streams: limits, counts, their end when the app closes, and what it
 * reports of each that is over.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { publishClose, publishOpen } from './diagnostics.ts'
import { Channels, type ChannelStats } from './channel/channels.ts'
import { channelsOf, followChannels } from './channel/live.ts'
import { FST_STREAM_INVALID_OPTION, FST_STREAM_LIMIT, shown } from './errors.ts'
import { internalOf } from './internals.ts'
import { pickRetry, type ResolvedLimits } from './options.ts'
import type { TypedEvents } from './stream/encode.ts'
import { Heartbeats } from './stream/heartbeat.ts'
import { outcomeReasons, type Host, type Lifecycle, type Refusal, type RouteEvents, type StreamOutcome } from './stream/lifecycle.ts'
import type { LiveReader, LiveTarget } from './stream/live.ts'
import { ignoreRejection, isPromiseLike } from './stream/promise-like.ts'
import { SessionCloser } from './stream/sessions.ts'
import { eventsOf } from './typed/routes.ts'

/** Counts of a registration since it was made; those of open streams are in them. */
export interface StreamingStats extends ChannelStats {
  /** Streams that are open now. */
  open: number
  /** Streams that ever were; always the sum of `open` and of all of `closed`. */
  opened: number
  /** Streams that are over, by the reason of their outcome. */
  closed: Record<StreamOutcome['reason'], number>
  /** Events accepted. */
  events: number
  /** Bytes of bodies. */
  bytes: number
}

/** Outcomes that somebody should look at. */
const troubles = new Set<StreamOutcome['reason']>(['stalled', 'overflow', 'lagged', 'failed'])

// Milliseconds that a client has to take its farewell in; the connection of one that takes nothing is cut then.
const farewellTime = 500
// The same for the error reply of a writer that has no head when its grace is over; all in all less than a second.
const refusalTime = 250

const registrations = new WeakMap<object, Set<Registration>>()

export class Registration implements Host {
  readonly heartbeats = new Heartbeats()
  readonly limits: ResolvedLimits
  readonly channels: Channels
  isClosing = false

  readonly #isLoggingDisabled: (request: FastifyRequest) => boolean
  /** Admitted and not closed, with the key of the client when there is a limit for it. */
  readonly #admitted = new Map<Lifecycle, string | undefined>()
  readonly #perClient = new Map<string, number>()
  readonly #open = new Set<Lifecycle>()
  readonly #sessions = new SessionCloser()
  /** All registrations of the same server. */
  readonly #siblings: Set<Registration>
  #ended: Promise<void> | undefined
  readonly #closed: StreamingStats['closed'] = Object.fromEntries(outcomeReasons.map(reason => [reason, 0])) as StreamingStats['closed']
  #opened = 0
  #events = 0
  #bytes = 0

  constructor (app: FastifyInstance, limits: ResolvedLimits, channels: Channels) {
    this.limits = limits
    this.channels = channels
    this.#isLoggingDisabled = requestLogging(app)
    this.#siblings = registrations.get(app.server) ?? new Set()
    this.#siblings.add(this)
    registrations.set(app.server, this.#siblings)
  }

  get open (): number {
    return this.#open.size
  }

  stats (): StreamingStats {
    let events = this.#events
    let bytes = this.#bytes
    for (const stream of this.#open) {
      events += stream.events
      bytes += stream.bytes
    }
    return { open: this.open, opened: this.#opened, closed: { ...this.#closed }, events, bytes, ...this.channels.stats() }
  }

  admit (stream: Lifecycle): Refusal | undefined {
    const { maxStreams, maxStreamsPerClient, clientKey } = this.limits
    if (this.#admitted.size >= maxStreams) return this.#refusal(stream, new FST_STREAM_LIMIT('maxStreams', maxStreams))
    let key: unknown
    if (maxStreamsPerClient !== Infinity) {
      key = clientKey(stream.reply.request)
      ignoreRejection(key)
      if (typeof key !== 'string') throw new FST_STREAM_INVALID_OPTION('clientKey', 'a function that returns a string', shown(key))
      const count = this.#perClient.get(key) ?? 0
      if (count >= maxStreamsPerClient) {
        const error = new FST_STREAM_LIMIT('maxStreamsPerClient', maxStreamsPerClient)
        error.statusCode = 429
        return this.#refusal(stream, error)
      }
      this.#perClient.set(key, count + 1)
    }
    this.#admitted.set(stream, key as string | undefined)
    // One that comes while the app closes.
    const late = this.isClosing ? finish([stream], farewellTime, stream => stream.cut()) : undefined
    this.#sessions.add(stream.reply.raw, late)
    return undefined
  }

  eventsOf (reply: FastifyReply): RouteEvents | undefined {
    return eventsOf(reply)
  }

  openChannels (source: unknown, typed: TypedEvents | undefined): ((target: LiveTarget) => LiveReader) | undefined {
    const channels = channelsOf(source, typed)
    return channels && (target => followChannels(channels, target, typed))
  }

  opened (stream: Lifecycle): void {
    this.#opened++
    this.#open.add(stream)
    publishOpen(stream.kind, stream.reply)
  }

  closed (stream: Lifecycle, outcome: StreamOutcome, isErrorReply: boolean): void {
    const { kind, reply } = stream
    this.#dismiss(stream)
    const wasOpen = this.#open.delete(stream)
    if (wasOpen) {
      this.#closed[outcome.reason]++
      this.#events += outcome.events
      this.#bytes += outcome.bytes
    }
    const logFailure = (error: unknown) => reply.log.error({ err: error }, 'onClose failed')
    for (const onClose of stream.closeListeners) {
      try {
        const result: unknown = onClose?.(outcome, reply.request)
        // An async listener that rejects must not be able to kill the process.
        if (isPromiseLike(result)) result.then(undefined, logFailure)
      } catch (error) {
        logFailure(error)
      }
    }
    // Fastify logs the error that it has sent. A stream that was open, until a hook which reads it failed, has its close.
    if (!isErrorReply) this.#log(reply, kind, outcome)
    if (wasOpen) publishClose(kind, reply, outcome)
  }

  /**
   * Ends every stream of every registration of the server; resolves when all are closed, within the time that clients
   * and writers have for it.
   */
  async shutDown (): Promise<void> {
    // Fastify runs the hooks of one context after those of the other.
    await Promise.all([...this.#siblings].map(async registration => await registration.#endAll()))
  }

  #endAll (): Promise<void> {
    this.#ended ??= this.#endStreams()
    return this.#ended
  }

  async #endStreams (): Promise<void> {
    this.isClosing = true
    const { grace } = this.limits.shutdown
    const streams = [...this.#admitted.keys()]
    const eventStreams = streams.filter(stream => stream.kind === 'sse')
    const writers = streams.filter(stream => stream.kind === 'writer')
    for (const stream of eventStreams) stream.end('shutdown')
    const closed = Promise.all([
      finish(eventStreams, farewellTime, stream => stream.cut()),
      finish(writers, grace, stream => {
        // One that has ended by itself waits for its client only.
        if (!stream.isOpen) return stream.cut()
        stream.end('shutdown')
        void finish([stream], refusalTime, stream => stream.cut())
      })
    ])
    await Promise.all([closed, this.#sessions.close(grace, closed)])
  }

  #refusal (stream: Lifecycle, error: Error): Refusal {
    const { overload, shutdown } = this.limits
    return { error, retry: pickRetry(shutdown.retry), isInBand: overload === 'retry' && stream.kind === 'sse' }
  }

  #dismiss (stream: Lifecycle): void {
    const key = this.#admitted.get(stream)
    if (key !== undefined) {
      const left = this.#perClient.get(key) as number - 1
      if (left > 0) this.#perClient.set(key, left)
      else this.#perClient.delete(key)
    }
    this.#admitted.delete(stream)
  }

  #log (reply: FastifyReply, kind: string, { reason, events, bytes, duration, error }: StreamOutcome): void {
    const isTrouble = troubles.has(reason)
    if (!isTrouble && this.#isLoggingDisabled(reply.request)) return
    const line: { stream: object, err?: unknown } = { stream: { kind, reason, events, bytes, duration } }
    if (error !== undefined) line.err = error
    if (isTrouble) reply.log.warn(line, 'stream closed')
    else reply.log.info(line, 'stream closed')
  }
}

/** Waits for streams to close, and gives up on those that have not after so many milliseconds. */
async function finish (streams: Lifecycle[], milliseconds: number, giveUp: (stream: Lifecycle) => void): Promise<void> {
  const left = new Set(streams)
  const all = Promise.all(streams.map(async stream => {
    await stream.closed
    left.delete(stream)
  }))
  const timer = setTimeout(() => { for (const stream of left) giveUp(stream) }, milliseconds)
  await all
  clearTimeout(timer)
}

// Fastify's log controller is the one that knows; before it there was the option alone.
function requestLogging (app: FastifyInstance): (request: FastifyRequest) => boolean {
  const controller = internalOf(app, 'fastify.logController') as { isLogDisabled (request: FastifyRequest): boolean } | undefined
  if (controller !== undefined) return request => controller.isLogDisabled(request)
  const { disableRequestLogging } = app.initialConfig
  return request => typeof disableRequestLogging === 'function' ? disableRequestLogging(request) : disableRequestLogging === true
}
