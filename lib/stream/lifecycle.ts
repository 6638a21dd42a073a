/**
 * One streaming reply, from the call to its outcome: whatever its body is made of.
 */
import type { FastifyReply } from 'fastify'
import { FST_STREAM_INVALID_SOURCE, FST_STREAM_SOURCE_FAILED, FST_STREAM_TRAILER, kindOf, withCause } from '../errors.ts'
import type { ResolvedLimits, ResolvedOptions } from '../options.ts'
import { Connection, type ConnectionEvents, type Sink } from './connection.ts'
import { retryLine, type TypedEvents } from './encode.ts'
import { SharedChunk } from './framing.ts'
import { Head } from './head.ts'
import type { Beating, Heartbeats } from './heartbeat.ts'
import { clearHandlerTimeout, disown, emptyPayload, hasTrailers, isSeenByHooks, isSendingError, own, Payload, removeTrailers, sendError, sendOwned, type ReplyOwner } from './payload.ts'
import { isPromiseLike } from './promise-like.ts'
import type { LiveReader, LiveTarget } from './live.ts'
import { onAbort } from './shared-listener.ts'
import { releaseUnread, type Source } from './source.ts'
import { Turns } from './turns.ts'

/** How a stream ended. */
export interface StreamOutcome {
  /**
   * - `completed`: the response finished, its last byte was handed to the system
   * - `disconnected`: the client left
   * - `failed`: the source threw, or the reply became an error reply (`error`)
   * - `stalled`: the client took nothing for `writeTimeout`
   * - `overflow`: more than `maxBuffered` bytes waited
   * - `lagged`: it fell out of the history of its channel, with `lag: 'disconnect'`
   * - `expired`: `maxDuration` was over
   * - `shutdown`: the app closed
   * - `closed`: by `stream.close()`, by its channel's `close()`, or by a hook that took the payload away
   * - `aborted`: by `options.signal` (its reason in `error`)
   */
  reason: typeof outcomeReasons[number]
  /** Events accepted from the source or `send`, without comments, heartbeats and the package's own blocks. */
  events: number
  /** Bytes of the body, without HTTP framing. */
  bytes: number
  /** Milliseconds from the call to the close of the response. */
  duration: number
  /** What went wrong, for `failed` and `aborted`. */
  error?: unknown
}

export const outcomeReasons = [
  'completed', 'disconnected', 'failed', 'stalled', 'overflow', 'lagged', 'expired', 'shutdown', 'closed', 'aborted'
] as const

/** What kind of body a stream has. */
export type StreamKind = 'sse' | 'writer'

/** Names the outcome of a stream by the raw response, for `fastify-streaming/testing`; the ESM and CJS builds share it. */
export const kOutcome = Symbol.for('fastify-streaming.outcome')

/** What a stream needs of the registration it belongs to. */
export interface Host {
  readonly heartbeats: Heartbeats
  readonly limits: ResolvedLimits
  /** The app closes: a stream that still comes ends at once. */
  readonly isClosing: boolean
  /** Counts the stream against the limits, from the call until it is closed; returns what refuses it. Throws what `clientKey` throws. */
  admit (stream: Lifecycle): Refusal | undefined
  /** The stream has a head of its own, or ended without being an error reply before it had one. */
  opened (stream: Lifecycle): void
  /** The events that the route of a reply names; undefined when it names none. Throws what makes the reply an error. */
  eventsOf (reply: FastifyReply): RouteEvents | undefined
  /** What follows the channels that a source is; undefined when it is none. Throws what makes the reply an error. */
  openChannels (source: unknown, typed: TypedEvents | undefined): ((target: LiveTarget) => LiveReader) | undefined
  /** The stream is over. `isErrorReply`: Fastify has sent an error instead of it. */
  closed (stream: Lifecycle, outcome: StreamOutcome, isErrorReply: boolean): void
}

/** The events that a route names. */
export interface RouteEvents {
  /** Encodes them and checks their data. */
  readonly checked: TypedEvents
  /** Encodes them; the serializers alone refuse data. */
  readonly unchecked: TypedEvents
}

/** Why a stream is not admitted. */
export interface Refusal {
  error: Error
  /** Milliseconds after which the client may come back. */
  retry: number
  /** The client is told in an event stream of its own, as `EventSource` would give up on an error. */
  isInBand: boolean
}

/** What a body still says when it ends, or that it is cut. */
export type Farewell = { last: string } | 'cut'

/**
 * idle: no head asked for. committed: it is sent in the next tick. sending: with Fastify, its hooks run. open: the
 * response is ours. whole: Fastify sends all of the body. bodiless: Fastify sends a head alone. refused: Fastify sends an
 * error, or something else instead of the stream. closed: nothing can be sent.
 */
type Phase = 'idle' | 'committed' | 'sending' | 'open' | 'whole' | 'bodiless' | 'refused' | 'closed'

export abstract class Lifecycle implements ReplyOwner, ConnectionEvents, Beating {
  abstract readonly kind: StreamKind
  /** Settles with the outcome, after the response has closed. Never rejects. */
  readonly closed: Promise<StreamOutcome>
  readonly reply: FastifyReply
  readonly options: ResolvedOptions
  protected readonly host: Host
  protected readonly connection: Connection
  protected eventCount = 0
  beatAt = 0

  readonly #startedAt = performance.now()
  readonly #settle: (outcome: StreamOutcome) => void
  #phase: Phase = 'idle'
  #opened = false
  #reason: StreamOutcome['reason'] | undefined
  #error: unknown
  #refusal: unknown
  /** Until it has left, or something else has taken its place. */
  #head: Head | undefined
  #source: Pick<Source, 'release'> | undefined
  #controller: AbortController | undefined
  #turns: Turns | undefined
  #abortedFor: StreamOutcome['reason'] | undefined
  #commitTimer: NodeJS.Timeout | undefined
  /** When a hook reads it. */
  #payload: Payload | undefined
  /** Runs when the stream was cut before its head, and a hook that reads it may still answer. */
  #hookTimer: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #forgetSignal: (() => void) | undefined

  constructor (host: Host, reply: FastifyReply, options: ResolvedOptions) {
    this.host = host
    this.reply = reply
    this.options = options
    this.connection = new Connection(reply.request.raw, reply.raw, options.writeTimeout, this)
    let settle!: (outcome: StreamOutcome) => void
    this.closed = new Promise(resolve => { settle = resolve })
    this.#settle = settle
    ;(reply.raw as { [kOutcome]?: Promise<StreamOutcome> })[kOutcome] = this.closed
    own(reply, this)
  }

  /** Whether nobody wants this stream any more: the answer is 204. */
  protected abstract isDone (): boolean
  /** Runs the source of a stream that has been admitted. */
  protected abstract run (source: unknown): void
  /** The headers that tell what the body is, just before the hooks run. */
  protected abstract contentHeaders (): Record<string, string>
  /** What is sent before anything else. */
  protected abstract prelude (): string
  /** How the body ends. */
  protected abstract farewell (reason: StreamOutcome['reason'], error: unknown): Farewell
  /** The error reply that stands for a stream which ended before its head; without one it gets its head and its end. */
  protected abstract errorReply (reason: StreamOutcome['reason']): Error | undefined
  /** Takes one item of a source. Throws when the item is invalid. */
  protected abstract take (item: unknown): void
  /** The head is on its way, or there will be none. */
  protected headWritten (): void {}

  /** The plugin's `onClose` and the call's. */
  get closeListeners (): Array<ResolvedOptions['onClose']> {
    return [this.options.onClosePlugin, this.options.onClose]
  }

  get isOpen (): boolean {
    return this.#reason === undefined
  }

  get bytes (): number {
    return this.connection.bytes
  }

  get bufferedBytes (): number {
    return this.connection.bufferedBytes
  }

  get events (): number {
    return this.eventCount
  }

  /** Aborts when the stream ends, for whatever reason. */
  get signal (): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#abortedFor !== undefined) this.#controller.abort(abortError(this.#abortedFor))
    }
    return this.#controller.signal
  }

  /**
   * Runs the call. A source that will not be read is released. `invalid` is what was wrong with the call: it becomes
   * the error reply.
   */
  start (source: unknown, invalid: { error: unknown } | undefined): void {
    if (this.#isWanted(invalid) && this.#begin()) {
      this.run(source)
      this.#commitLater()
    } else {
      releaseUnread(source)
    }
  }

  /**
   * Asks for the head. When there are no hooks to see a stream, and HTTP/1 carries it, that is sent in the next tick, when
   * everything that is ready has been written: a body that is whole by then needs no stream.
   */
  protected commit (): void {
    if (this.#phase !== 'idle') return
    clearTimeout(this.#commitTimer)
    this.#prepareHead()
    if (!this.connection.isShort || isSeenByHooks(this.reply)) return this.#send()
    this.#phase = 'committed'
    this.connection.isCollecting = true
    process.nextTick(sendCommitted, this)
  }

  static sendCommitted (stream: Lifecycle): void {
    if (stream.#phase === 'committed') stream.#send()
  }

  /** Hands the stream to Fastify: its onSend hooks run, and the head is sent. */
  #send (): void {
    this.connection.isCollecting = false
    const last = this.#lastOfWhole()
    this.#phase = last === undefined ? 'sending' : 'whole'
    if (last === undefined) sendOwned(this.reply, new Payload(this.reply.raw, this))
    else this.#sendWhole(last)
  }

  #lastOfWhole (): string | undefined {
    if (this.#phase !== 'committed' || this.#reason === undefined || !this.connection.isShort) return undefined
    // The handler may have gone on.
    if (hasTrailers(this.reply) || this.reply.raw.headersSent || this.#isBodiless) return undefined
    // Never 'cut': what ends so has sent its head before, or gets an error reply.
    return (this.farewell(this.#reason, this.#error) as { last: string }).last
  }

  #sendWhole (last: string): void {
    const { connection, reply } = this
    connection.write(last)
    sendOwned(reply, connection.take(this.prelude()))
    // Fastify may have found an error.
    if (this.#phase !== 'whole') return
    this.#reportOpened()
    connection.taken()
  }

  /**
   * Reads what `open` makes of `source` to its end, as fast as the client takes it; it is released when the stream ends.
   * Fails the stream when `open` finds nothing to read in it (`rule`: what it must be) or throws.
   */
  protected consume (source: unknown, open: (source: unknown) => Source | undefined, rule: string): void {
    if (!this.isOpen) return releaseUnread(source)
    let opened
    try {
      opened = open(source)
      if (opened === undefined) throw new FST_STREAM_INVALID_SOURCE(rule, kindOf(source))
    } catch (error) {
      releaseUnread(source)
      return this.end('failed', error)
    }
    void this.#read(opened)
  }

  async #read (source: Source): Promise<void> {
    const { connection } = this
    const turns = this.#turns ??= new Turns()
    this.#source = source
    try {
      for (;;) {
        let result
        try {
          result = source.next()
          if (isPromiseLike(result)) result = await result
        } catch (error) {
          source.finished?.()
          throw error
        }
        const isDone = result.done === true
        if (isDone) source.finished?.()
        if (!this.isOpen) return
        if (isDone) break
        this.take(result.value)
        if (!connection.hasRoom && !await connection.room()) return
        if (turns.isDue(connection.bytes)) {
          await turns.turn(connection.bytes)
          if (!this.isOpen) return
        }
      }
    } catch (error) {
      return this.end('failed', error)
    }
    this.end('completed')
  }

  /** Releases `source` when the stream, which is open, ends. */
  protected hold (source: Pick<Source, 'release'>): void {
    this.#source = source
  }

  /** Sends what a user hands over; resolves `true` when there is room for more, `false` when the stream has ended. */
  protected push (chunk: string | Uint8Array, events: number): Promise<boolean> {
    if (this.connection.bufferedBytes > this.options.maxBuffered) {
      this.end('overflow')
      return refused
    }
    if (!this.accept(chunk, events)) return refused
    if (!this.connection.hasRoom) return this.connection.room()
    this.#turns ??= new Turns()
    return this.#turns.isDue(this.connection.bytes) ? this.#turned(this.#turns) : accepted
  }

  // A loop that awaits nothing but this is a source that never waits.
  async #turned (turns: Turns): Promise<boolean> {
    await turns.turn(this.connection.bytes)
    return await this.connection.room()
  }

  /** False when reading what was handed over has run code that ended the stream. */
  protected accept (chunk: string | Uint8Array | SharedChunk, events: number): boolean {
    if (!this.isOpen) return false
    this.eventCount += events
    // The head waits for a byte.
    if (chunk.length === 0) return true
    if (chunk instanceof SharedChunk) this.connection.writeShared(chunk)
    else this.connection.write(chunk)
    this.commit()
    return true
  }

  /** Refuses what a user handed over: the stream goes on without it. */
  protected reject (error: unknown): Promise<never> {
    this.reply.log.warn({ err: error }, 'refused by the stream')
    const rejected = Promise.reject(error)
    // What is sent without await must not be able to kill the process.
    rejected.catch(noop)
    return rejected
  }

  /** Ends the stream. The first reason counts. */
  end (reason: StreamOutcome['reason'], error?: unknown): void {
    // What has come before is to reach the client, too.
    if (this.#phase === 'committed' && reason !== 'completed' && reason !== 'closed') this.#send()
    if (this.#reason !== undefined) return
    this.#reason = reason
    this.#error = error
    // A completed stream may still turn out to be one whose client left with bytes waiting.
    if (reason !== 'completed') this.#abort(reason)
    this.#source?.release()
    this.#source = undefined
    this.#clearTimers()
    this.host.heartbeats.remove(this)
    if (this.#phase === 'open') this.#conclude()
    else if (this.#phase === 'idle' || this.#phase === 'sending') this.#endBeforeHead(reason, error)
  }

  /** Cuts a stream that has had its time to end, as the app closes. */
  cut (): void {
    if (this.#reason === 'completed') this.#reason = 'shutdown'
    this.connection.cut()
  }

  attach (sink: Sink): void {
    // The client left, or an error replaced the stream, while hooks ran.
    if (this.#phase !== 'sending') return
    if (this.#refusal === undefined && hasTrailers(this.reply)) {
      removeTrailers(this.reply)
      const error = new FST_STREAM_TRAILER()
      this.end('failed', error)
      // It may have ended before.
      this.#reason = 'failed'
      this.#error = this.#refusal = error
    }
    if (this.#refusal !== undefined) return this.#refuse(this.#refusal)
    this.#phase = 'open'
    // A body that a hook passes on may still become Fastify's error reply.
    if (sink instanceof Payload) {
      this.#payload = sink
    }
    clearHandlerTimeout(this.reply)
    this.#reportOpened()
    if (this.#payload === undefined) this.#head = undefined
    this.connection.attach(sink, this.prelude())
    if (this.#reason !== undefined) this.#conclude()
    else this.startHeartbeat()
  }

  /** Keeps the stream alive, if it has a head. */
  protected startHeartbeat (): void {
    if (this.#phase === 'open' && this.heartbeat > 0) this.host.heartbeats.add(this)
  }

  dropped (error: Error | null): void {
    // Fastify destroys it when the client has left, which is told on its own.
    if (this.connection.isOver) return
    if (error === null) this.end('closed')
    else this.end('failed', error)
  }

  handlerFailed (error: unknown): void {
    if (this.#reason === undefined) this.end('failed', error)
    else this.reply.log.error({ err: error }, 'the handler failed after its stream had ended')
  }

  gave (value: unknown): boolean {
    return false
  }

  /** The function that makes the stream threw. When the stream was cut before, that may be why. */
  protected fail (error: unknown): void {
    if (this.#reason === 'completed' || this.#reason === 'closed') {
      this.reply.log.error({ err: error }, 'the source failed after its stream had ended')
    } else {
      this.end('failed', error)
    }
  }

  replacedByError (error: unknown): void {
    this.#phase = 'refused'
    this.end('failed', error)
    // It may have ended in another way before: the client gets the error all the same.
    if (this.#hookTimer === undefined) {
      this.#reason = 'failed'
      this.#error = error
    }
    this.#giveBack()
  }

  onStarted (): void {
    this.headWritten()
  }

  onStalled (): void {
    if (this.#reason === undefined) return this.end('stalled')
    // It has ended, and the client does not take the rest.
    if (this.#reason === 'completed') this.#reason = 'stalled'
    this.connection.cut()
  }

  onClosed (finished: boolean): void {
    const phase = this.#phase
    this.#phase = 'closed'
    if (this.#reason === undefined) this.end(finished ? 'closed' : 'disconnected')
    else if (this.#reason === 'completed' && !finished) this.#reason = 'disconnected'
    else if (this.#reason === 'completed' && phase === 'sending') this.#reason = 'closed'
    const reason = this.#reason as StreamOutcome['reason']
    this.#abort(reason)
    clearTimeout(this.#hookTimer)
    // Nobody waits any longer for what a hook is reading.
    this.#payload?.destroy()
    const isErrorReply = phase === 'refused' || this.#refusal !== undefined
    // Fastify has sent something else, in which nothing of the stream is.
    const isReplaced = isErrorReply || (phase === 'sending' && finished)
    const outcome: StreamOutcome = {
      reason,
      events: isReplaced ? 0 : this.eventCount,
      bytes: phase === 'open' || phase === 'whole' ? this.connection.bytes : 0,
      duration: Math.round(performance.now() - this.#startedAt)
    }
    if (reason === 'failed' || reason === 'aborted') outcome.error = this.#error
    if (!isErrorReply) this.#reportOpened()
    this.host.closed(this, outcome, isErrorReply)
    this.headWritten()
    disown(this.reply)
    // What the handler returns, this outcome, is not to be sent.
    this.reply.hijack()
    this.#settle(outcome)
  }

  get heartbeat (): number {
    return this.options.heartbeat
  }

  get lastWrite (): number {
    return this.connection.lastWrite
  }

  beat (): void {
    if (this.connection.bufferedBytes > 0) return
    const sign = this.sign()
    if (sign instanceof SharedChunk) this.connection.writeShared(sign)
    else this.connection.write(sign)
  }

  /** What a heartbeat sends; '' for nothing. */
  protected sign (): string | SharedChunk {
    return comment
  }

  #isWanted (invalid: { error: unknown } | undefined): boolean {
    const { reply } = this
    if (this.connection.isOver) return false
    if (invalid !== undefined) {
      this.end('failed', invalid.error)
      return false
    }
    if (this.isDone()) reply.code(204)
    if (!this.#isBodiless && reply.request.method !== 'HEAD') return true
    this.#reason = 'completed'
    this.#phase = 'bodiless'
    if (this.#isBodiless) {
      sendOwned(reply)
    } else {
      this.#prepareHead()
      sendOwned(reply, emptyPayload())
    }
    return false
  }

  get #isBodiless (): boolean {
    return this.reply.statusCode === 204 || this.reply.statusCode === 304
  }

  // It counts against the limits from here, and its options may end it.
  #begin (): boolean {
    const { maxDuration, signal } = this.options
    try {
      const refusal = this.host.admit(this)
      if (refusal !== undefined) this.#turnAway(refusal)
    } catch (error) {
      this.end('failed', error)
    }
    if (this.host.isClosing) this.end('shutdown')
    if (!this.isOpen) return false
    if (maxDuration > 0) {
      this.#expiry = setTimeout(() => this.end('expired'), maxDuration * (0.8 + Math.random() * 0.2))
      this.#expiry.unref()
    }
    if (signal !== undefined) this.#forgetSignal = onAbort(signal, () => this.end('aborted', signal.reason))
    return this.isOpen
  }

  #turnAway ({ error, retry, isInBand }: Refusal): void {
    if (!isInBand) {
      this.reply.header('retry-after', Math.ceil(retry / 1000))
      return this.end('failed', error)
    }
    this.#phase = 'refused'
    this.end('failed', error)
    this.#prepareHead()
    // As bytes: text would go through the reply's serializer.
    sendOwned(this.reply.code(200), Buffer.from(retryLine(retry)))
  }

  // The head is asked for when nothing has done so by then.
  #commitLater (): void {
    const { commitAfter } = this.options
    if (this.#phase !== 'idle' || !this.isOpen || commitAfter === Infinity) return
    if (commitAfter === 0) setImmediate(() => { if (this.isOpen) this.commit() })
    else this.#commitTimer = setTimeout(() => this.commit(), commitAfter)
  }

  #endBeforeHead (reason: StreamOutcome['reason'], error: unknown): void {
    if (reason === 'overflow') return this.connection.cut()
    const reply = reason === 'failed' ? replyable(error, this.reply) : this.errorReply(reason)
    if (reply !== undefined) this.#refuse(reply)
    else this.commit()
  }

  /** Becomes an ordinary error reply of Fastify: now, or when the hooks that are running have ended. */
  #refuse (error: unknown): void {
    if (this.#phase === 'sending' && this.#refusal === undefined) {
      this.#refusal = error
      return
    }
    this.#phase = 'refused'
    this.#giveBack()
    sendError(this.reply, error)
  }

  /** Lets anybody send on the reply, without our headers. */
  #giveBack (): void {
    disown(this.reply)
    this.#head?.takeBack()
  }

  #prepareHead (): void {
    this.#head = new Head(this.reply, this.contentHeaders())
  }

  #conclude (): void {
    const farewell = this.farewell(this.#reason as StreamOutcome['reason'], this.#error)
    if (farewell === 'cut') return this.#cut()
    if (farewell.last !== '') this.connection.write(farewell.last)
    this.connection.end()
  }

  #cut (): void {
    const cause = this.#reason === 'failed' ? replyable(this.#error, this.reply) : this.errorReply(this.#reason as StreamOutcome['reason'])
    this.#payload?.destroy(cause as Error | undefined)
    if (this.#payload === undefined || this.reply.raw.headersSent) return this.connection.cut()
    // The hook may make it an error reply.
    this.#hookTimer = setTimeout(() => this.connection.cut(), hookTime)
    this.#hookTimer.unref()
  }

  #reportOpened (): void {
    if (this.#opened) return
    this.#opened = true
    this.host.opened(this)
  }

  #abort (reason: StreamOutcome['reason']): void {
    if (this.#abortedFor !== undefined) return
    this.#abortedFor = reason
    this.#controller?.abort(abortError(reason))
  }

  #clearTimers (): void {
    clearTimeout(this.#expiry)
    clearTimeout(this.#commitTimer)
    this.#forgetSignal?.()
    this.#forgetSignal = undefined
  }
}

const { sendCommitted } = Lifecycle

const comment = new SharedChunk(Buffer.from(':\n'))

/** The reason of a stream's signal. */
function abortError (reason: StreamOutcome['reason']): DOMException {
  return Object.assign(new DOMException(`The stream has ended: ${reason}`, 'AbortError'), { reason })
}

const accepted = Promise.resolve(true)
/** What every method of an ended stream gives. */
export const refused = Promise.resolve(false)

function noop (): void {}

// Milliseconds that a hook has to answer when the payload it reads has failed before the head.
const hookTime = 1000

/** What Fastify can send as an error: an Error, or whatever a handler has thrown. */
function replyable (error: unknown, reply: FastifyReply): unknown {
  if ((typeof error === 'object' && error !== null) || (error !== undefined && isSendingError(reply))) return error
  return withCause(new FST_STREAM_SOURCE_FAILED(), error)
}
