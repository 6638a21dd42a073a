/**
 * One streaming reply, from the call to its outcome: whatever its body is made of.
 */
import type { FastifyReply } from 'fastify'
import { FST_STREAM_SOURCE_FAILED, FST_STREAM_TRAILER } from '../errors.ts'
import type { ResolvedOptions } from '../options.ts'
import { Connection, type ConnectionEvents, type Sink } from './connection.ts'
import type { Beating, Heartbeats } from './heartbeat.ts'
import { disown, emptyPayload, hasTrailers, isSendingError, own, Payload, sendOwned, type ReplyOwner } from './payload.ts'
import { onAbort } from './abort.ts'
import type { Source } from './source.ts'

/** How a stream ended. */
export interface StreamOutcome {
  /**
   * - `completed`: the response finished, its last byte was handed to the system
   * - `disconnected`: the client left
   * - `failed`: the source threw, or the reply became an error reply (`error`)
   * - `stalled`: the client took nothing for `writeTimeout`
   * - `overflow`: more than `maxBuffered` bytes waited
   * - `expired`: `maxDuration` was over
   * - `shutdown`: the app closed
   * - `closed`: by `stream.close()`, or by a hook that took the payload away
   * - `aborted`: by `options.signal` (its reason in `error`)
   */
  reason: 'completed' | 'disconnected' | 'failed' | 'stalled' | 'overflow' | 'expired' | 'shutdown' | 'closed' | 'aborted'
  /** Events accepted from the source or `send`, without comments, heartbeats and the package's own blocks. */
  events: number
  /** Bytes of the body, without HTTP framing. */
  bytes: number
  /** Milliseconds from the call to the close of the response. */
  duration: number
  /** What went wrong, for `failed` and `aborted`. */
  error?: unknown
}

/** What kind of body a stream has. */
export type StreamKind = 'sse'

/** What a stream needs of the registration it belongs to. */
export interface Host {
  readonly heartbeats: Heartbeats
  /** The stream has a head of its own, or ended without being an error reply before it had one. */
  opened (stream: Lifecycle): void
  /** The stream is over. `isErrorReply`: Fastify has sent an error instead of it. */
  closed (stream: Lifecycle, outcome: StreamOutcome, isErrorReply: boolean): void
}

/** What a body still says when it ends, or that it is cut. */
export type Farewell = { last: string } | 'cut'

/**
 * idle: no head asked for. sending: with Fastify, its hooks run. open: the response is ours. bodiless: Fastify sends a
 * head alone. refused: Fastify sends an error.
 */
type Phase = 'idle' | 'sending' | 'open' | 'bodiless' | 'refused'

export abstract class Lifecycle implements ReplyOwner, ConnectionEvents, Beating {
  abstract readonly kind: StreamKind
  /** Settles with the outcome, after the response has closed. Never rejects. */
  readonly closed: Promise<StreamOutcome>
  readonly reply: FastifyReply
  protected readonly options: ResolvedOptions
  protected readonly connection: Connection
  protected eventCount = 0

  readonly #host: Host
  readonly #startedAt = performance.now()
  readonly #settle: (outcome: StreamOutcome) => void
  #phase: Phase = 'idle'
  #opened = false
  #reason: StreamOutcome['reason'] | undefined
  #error: unknown
  #refusal: unknown
  #headers: string[] = []
  #source: Source | undefined
  #controller: AbortController | undefined
  #abortedFor: StreamOutcome['reason'] | undefined
  #commitTimer: NodeJS.Immediate | NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #forgetSignal: (() => void) | undefined

  constructor (host: Host, reply: FastifyReply, options: ResolvedOptions) {
    this.#host = host
    this.reply = reply
    this.options = options
    this.connection = new Connection(reply.request.raw, reply.raw, options.writeTimeout, this)
    let settle!: (outcome: StreamOutcome) => void
    this.closed = new Promise(resolve => { settle = resolve })
    this.#settle = settle
    own(reply, this)
  }

  /** Headers of this kind of body, set just before the hooks run. Returns the names it set. */
  protected abstract prepareHead (reply: FastifyReply): string[]
  /** What is sent before anything else. */
  protected abstract prelude (): string
  /** How the body ends. */
  protected abstract farewell (reason: StreamOutcome['reason'], error: unknown): Farewell
  /** The head is on its way. */
  protected headWritten (): void {}

  /** The plugin's `onClose` and the call's. */
  get closeListeners (): Array<NonNullable<ResolvedOptions['onClose']>> {
    return [this.options.onClosePlugin, this.options.onClose].filter(listener => listener !== undefined)
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

  /** Starts the clock of the stream: what may end it, and the head that waits for a first event. */
  protected begin (): void {
    const { maxDuration, signal } = this.options
    if (maxDuration > 0) {
      this.#expiry = setTimeout(() => this.end('expired'), maxDuration * (0.8 + Math.random() * 0.2))
      this.#expiry.unref()
    }
    if (signal !== undefined) this.#forgetSignal = onAbort(signal, () => this.end('aborted', signal.reason))
  }

  /** Asks for the head when nothing has done so by then. */
  protected commitLater (milliseconds: number): void {
    if (this.#phase !== 'idle' || this.#reason !== undefined || milliseconds === Infinity) return
    if (milliseconds === 0) this.#commitTimer = setImmediate(() => this.commit())
    else this.#commitTimer = setTimeout(() => this.commit(), milliseconds)
  }

  /** Hands the stream to Fastify: its onSend hooks run, and the head is sent. */
  protected commit (): void {
    if (this.#phase !== 'idle') return
    this.#clearCommitTimer()
    this.#phase = 'sending'
    this.#headers = this.prepareHead(this.reply)
    try {
      sendOwned(this.reply, new Payload(this.reply.raw, this))
    } catch (error) {
      // A header that Node refuses, for example.
      this.end('failed', error)
    }
  }

  /** Answers without a body: HEAD gets the head of the stream, 204 and 304 have none. */
  protected completeWithoutBody (hasHead: boolean): void {
    this.#reason = 'completed'
    this.#phase = 'bodiless'
    if (hasHead) {
      this.#headers = this.prepareHead(this.reply)
      sendOwned(this.reply, emptyPayload())
    } else {
      sendOwned(this.reply)
    }
  }

  /** Makes `source` the one that is released when the stream ends; at once when it has. */
  protected holdSource (source: Source): void {
    if (this.#reason === undefined) this.#source = source
    else source.release()
  }

  /** Ends the stream. The first reason counts. */
  end (reason: StreamOutcome['reason'], error?: unknown): void {
    if (this.#reason !== undefined) return
    this.#reason = reason
    this.#error = error
    // A completed stream may still turn out to be one whose client left with bytes waiting.
    if (reason !== 'completed') this.#abort(reason)
    this.#source?.release()
    this.#source = undefined
    this.#clearTimers()
    if (this.#phase === 'open') this.#conclude()
    else if (reason === 'failed') this.#refuse(error)
    else if (reason === 'overflow') this.connection.cut()
    else if (reason !== 'disconnected') this.commit()
  }

  attach (sink: Sink): void {
    if (this.#refusal === undefined && hasTrailers(this.reply)) this.end('failed', new FST_STREAM_TRAILER())
    if (this.#refusal !== undefined) return this.#refuse(this.#refusal)
    this.#phase = 'open'
    // Takes Fastify's handlerTimeout away. A body that a hook passes on may still become Fastify's error reply.
    if (!(sink instanceof Payload)) this.reply.hijack()
    this.#reportOpened()
    this.connection.attach(sink, this.prelude())
    if (this.#reason !== undefined) this.#conclude()
    else if (this.options.heartbeat > 0) this.#host.heartbeats.add(this)
  }

  handlerFailed (error: unknown): void {
    if (this.#reason === undefined) this.end('failed', error)
    else this.reply.log.error({ err: error }, 'the handler failed after its stream had ended')
  }

  replacedByError (error: unknown): void {
    if (this.#phase === 'open' || this.#phase === 'refused') return
    this.#phase = 'refused'
    this.end('failed', error)
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
    const isErrorReply = this.#phase === 'refused'
    if (this.#reason === undefined) this.end(finished ? 'closed' : 'disconnected')
    else if (this.#reason === 'completed' && !finished) this.#reason = 'disconnected'
    else if (this.#reason === 'completed' && this.#phase === 'sending') this.#reason = 'closed'
    const reason = this.#reason as StreamOutcome['reason']
    this.#abort(reason)
    const isOurs = this.#phase === 'open'
    const outcome: StreamOutcome = {
      reason,
      events: isOurs ? this.eventCount : 0,
      bytes: isOurs ? this.connection.bytes : 0,
      duration: Math.round(performance.now() - this.#startedAt)
    }
    if (reason === 'failed' || reason === 'aborted') outcome.error = this.#error
    if (!isErrorReply) this.#reportOpened()
    this.#host.closed(this, outcome, isErrorReply)
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
    if (this.connection.bufferedBytes === 0) this.connection.write(':\n')
  }

  /** Becomes an ordinary error reply of Fastify: now, or when the hooks that are running have ended. */
  #refuse (error: unknown): void {
    if (this.#phase === 'refused') return
    const refusal = error instanceof Error || isSendingError(this.reply) ? error : sourceFailed(error)
    if (this.#phase === 'sending' && this.#refusal === undefined) {
      this.#refusal = refusal
      return
    }
    this.#phase = 'refused'
    this.#giveBack()
    sendOwned(this.reply, refusal)
  }

  /** Takes our headers off again, and lets anybody send on the reply. */
  #giveBack (): void {
    disown(this.reply)
    for (const name of this.#headers) this.reply.removeHeader(name)
  }

  #conclude (): void {
    this.#host.heartbeats.remove(this)
    const farewell = this.farewell(this.#reason as StreamOutcome['reason'], this.#error)
    if (farewell === 'cut') return this.connection.cut()
    if (farewell.last !== '') this.connection.write(farewell.last)
    this.connection.end()
  }

  #reportOpened (): void {
    if (this.#opened) return
    this.#opened = true
    this.#host.opened(this)
  }

  #abort (reason: StreamOutcome['reason']): void {
    if (this.#abortedFor !== undefined) return
    this.#abortedFor = reason
    this.#controller?.abort(abortError(reason))
  }

  #clearTimers (): void {
    clearTimeout(this.#expiry)
    this.#clearCommitTimer()
    this.#forgetSignal?.()
    this.#forgetSignal = undefined
  }

  #clearCommitTimer (): void {
    clearImmediate(this.#commitTimer as NodeJS.Immediate)
    clearTimeout(this.#commitTimer as NodeJS.Timeout)
  }
}

/** The reason of a stream's signal. */
function abortError (reason: StreamOutcome['reason']): DOMException {
  return Object.assign(new DOMException(`The stream has ended: ${reason}`, 'AbortError'), { reason })
}

function sourceFailed (cause: unknown): Error {
  const error = new FST_STREAM_SOURCE_FAILED()
  error.cause = cause
  return error
}
