/**
 * The way of bytes to one client: the only holder of the raw response.
 */
import { constants } from 'node:http2'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2ServerResponse, ServerHttp2Stream } from 'node:http2'
import { ChunkQueue } from './chunk-queue.ts'
import { FramedResponse, type SharedChunk } from './framing.ts'
import { onSocketClose } from './shared-listener.ts'

export type RawResponse = ServerResponse | Http2ServerResponse

/** Where the bytes of a body go: the raw response, or the payload stream when a hook pipes it elsewhere. */
export interface Sink {
  readonly writableLength: number
  /** Sends the head, where the sink is the response. */
  flushHeaders?(): void
  write (chunk: string | Uint8Array, done: (error?: Error | null) => void): boolean
  end (): unknown
  end (chunk: string | Uint8Array): unknown
  on (event: 'drain', listener: () => void): unknown
  off (event: 'drain', listener: () => void): unknown
}

/** What a connection tells its stream. */
export interface ConnectionEvents {
  /** The head and the first bytes are on their way. */
  onStarted (): void
  /** Bytes have waited for `writeTimeout` without progress. */
  onStalled (): void
  /** The response has closed; `finished` when its last byte was handed to the system before. */
  onClosed (finished: boolean): void
}

// HTTP/2 hands a write out in frames as its flow control allows, and tells only when all of it is gone. Node makes one
// write of all that wait, so the next one is made when the last is gone.
const http2SliceBytes = 16 * 1024

export class Connection {
  /** Bytes of the body so far, without HTTP framing. */
  bytes = 0
  /** `performance.now()` of the last write. */
  lastWrite = performance.now()
  /** Takes all that is ready, up to a slice, until there is a sink: not the first chunk alone. */
  isCollecting = false

  readonly #response: RawResponse
  readonly #request: IncomingMessage
  readonly #events: ConnectionEvents
  readonly #writeTimeout: number
  #forgetSocket: (() => void) | undefined
  #sink: Sink | undefined
  /** The sink, when it frames by itself. */
  #framed: FramedResponse | undefined
  readonly #queue: ChunkQueue
  #oneAtATime: boolean
  #started = false
  #blocked = false
  #ending = false
  #ended = false
  #finished = false
  #closed = false
  #flushScheduled = false
  #writes = 0
  #acknowledged = 0
  #deadline: NodeJS.Timeout | undefined
  #waitingSince = 0
  #room: Array<(open: boolean) => void> | undefined
  #flushed: Array<(open: boolean) => void> | undefined

  constructor (request: IncomingMessage, response: RawResponse, writeTimeout: number, events: ConnectionEvents) {
    this.#request = request
    this.#response = response
    this.#writeTimeout = writeTimeout
    this.#events = events
    this.#oneAtATime = isHttp2(response)
    this.#queue = new ChunkQueue(this.#oneAtATime ? http2SliceBytes : undefined)
    response.on('finish', this.#onFinish)
    response.on('error', noop)
    if (this.isOver) {
      // No event will tell what has happened before anybody listened.
      process.nextTick(this.#onClose)
      return
    }
    response.on('close', this.#onClose)
    if (isHttp2(response)) {
      const { stream } = response
      // The response itself finishes only when the client has sent all of its request; one without a body only there.
      stream.on('finish', this.#onFinish)
      // A client that resets the stream without an error: Node would not let go of it.
      stream.on('aborted', () => setImmediate(destroyStream, stream))
      this.#watch()
    } else {
      // One that waits behind a pipelined one has no socket yet, and is told nothing when the client leaves.
      if (response.socket === null) this.#forgetSocket = onSocketClose(request.socket, this.#onClose)
    }
  }

  /** The response has ended, or lost its client. */
  get isOver (): boolean {
    const response = this.#response
    if (response.writableEnded || response.closed) return true
    return isHttp2(response) ? response.stream.destroyed : response.destroyed || this.#request.socket.destroyed
  }

  /** Bytes that wait, here and in the socket. */
  get bufferedBytes (): number {
    // inject() takes every byte at once, and then lets a mock of a socket chew on it, one chunk a turn.
    const isCounted = this.#sink !== undefined && !this.#closed && !('isLightMyRequest' in this.#sink)
    return this.#queue.bytes + (isCounted ? (this.#sink as Sink).writableLength : 0)
  }

  /** True while the next item may be asked for. */
  get hasRoom (): boolean {
    if (this.#sink === undefined && !this.isCollecting) return this.#queue.bytes === 0
    return !this.#blocked && this.#queue.isShort
  }

  /** Resolves `true` when there is room, `false` when the response has closed. */
  room (): Promise<boolean> {
    if (this.#closed || this.#ending) return Promise.resolve(false)
    if (this.hasRoom) return Promise.resolve(true)
    return new Promise(resolve => (this.#room ??= []).push(resolve))
  }

  /** Resolves `true` when everything was handed to the system, `false` when the response has closed before. */
  flushed (): Promise<boolean> {
    if (this.#started && !this.#isWaiting) return Promise.resolve(true)
    return new Promise(resolve => (this.#flushed ??= []).push(resolve))
  }

  /** Takes a chunk. What is written in one turn leaves in one write, in the next tick at the latest. */
  write (chunk: string | Uint8Array): void {
    const length = typeof chunk === 'string' ? Buffer.byteLength(chunk) : chunk.length
    this.bytes += length
    this.#queue.push(chunk, length)
    // What cannot leave now does so when the sink has room again.
    if (this.#sink === undefined || !this.#canHandOver) return
    if (this.#queue.isShort) this.#scheduleFlush()
    else this.flush()
  }

  /** Takes what others get as well: it leaves now when nothing waits before it. */
  writeShared (chunk: SharedChunk): void {
    const sink = this.#framed ?? this.#sink
    const isNext = this.#started && this.#queue.bytes === 0 && !this.#blocked
    const isAlone = this.#writes === this.#acknowledged && chunk.length <= http2SliceBytes
    if (sink === undefined || !isNext || (sink !== this.#framed && !isAlone)) return this.write(chunk.bytes)
    this.bytes += chunk.length
    this.lastWrite = performance.now()
    if (this.#writes === this.#acknowledged) this.#waitingSince = this.lastWrite
    this.#writes++
    this.#blocked = sink === this.#framed ? !this.#framed.writeShared(chunk, this.#acknowledge) : !sink.write(chunk.bytes, this.#acknowledge)
    this.#watchUnlessTaken(sink)
  }

  /** True while all of the body could be sent in one piece. */
  get isShort (): boolean {
    return this.#queue.isShort && !this.#oneAtATime
  }

  /** Gives the body, which is whole before its head, to somebody else who sends it. */
  take (prelude: string): Buffer {
    this.#prepend(prelude)
    this.#ending = true
    this.#ended = true
    this.#writes++
    this.#waitingSince = performance.now()
    this.#giveRoom(false)
    return this.#queue.shiftAll()
  }

  /** What was taken has been written to the response. */
  taken (): void {
    this.#watchUnlessTaken(this.#response as Sink)
  }

  #prepend (prelude: string): void {
    if (prelude === '') return
    this.bytes += prelude.length
    this.#queue.unshift(prelude)
  }

  /** Opens the way: `prelude` and then whatever waits go to `sink`, in the next tick. */
  attach (sink: Sink, prelude: string): void {
    this.#sink = sink
    this.#prepend(prelude)
    this.lastWrite = performance.now()
    sink.on('drain', this.#onDrain)
    // An idle time limit of the server must not cut a stream that has nothing to say.
    // The socket is the request's: a response that is queued behind another has none yet.
    if (!isHttp2(this.#response)) this.#request.socket.setTimeout?.(0)
    this.#scheduleFlush()
  }

  /** Hands over what waits, as far as the sink takes it. */
  flush (): void {
    const sink = this.#sink
    if (sink === undefined || this.#closed || this.#ended) return
    if (this.#queue.bytes === 0 && !this.#started && !this.#ending) sink.flushHeaders?.()
    const now = performance.now()
    if (this.#writes === this.#acknowledged) this.#waitingSince = now
    if (this.#canHandOver) this.lastWrite = now
    while (this.#canHandOver) {
      const chunk = this.#queue.shift()
      this.#writes++
      if (this.#ending && this.#queue.bytes === 0) {
        this.#ended = true
        sink.end(chunk)
      } else {
        this.#blocked = !sink.write(chunk, this.#acknowledge)
      }
    }
    if (this.#ending && !this.#ended && this.#queue.bytes === 0) {
      this.#writes++
      this.#ended = true
      sink.end()
    }
    if (this.#isWaiting) this.#watchUnlessTaken(sink)
    if (this.#framed === undefined && !this.#ended) this.#frame()
    if (!this.#started) {
      this.#started = true
      this.#events.onStarted()
      this.#tellFlushed()
    }
    this.#giveRoom()
  }

  /** The same, in this tick: Node holds an HTTP/1 write until the next one, to join what follows. */
  flushNow (): void {
    if (!this.#started || this.#queue.bytes > 0) this.flush()
    const response = this.#response
    const isOurs = this.#framed !== undefined || this.#sink === response as Sink
    if (isHttp2(response) || response.socket === null || !isOurs) return
    while (response.socket.writableCorked > 0) response.socket.uncork()
  }

  // Once it has its head, and for an HTTP/1.1 response that is not behind another one.
  #frame (): void {
    const response = this.#response
    if (isHttp2(response) || this.#sink !== response as Sink) return
    this.#framed = FramedResponse.of(response)
    if (this.#framed === undefined) return
    this.#sink.off('drain', this.#onDrain)
    this.#sink = this.#framed
    this.#sink.on('drain', this.#onDrain)
  }

  /** Ends the body properly once everything that waits was handed over. */
  end (): void {
    this.#ending = true
    this.#giveRoom(false)
    if (this.#sink !== undefined) this.#scheduleFlush()
  }

  /** Ends the body so that the client can see it is not whole; what was written by now is on its way before. */
  cut (): void {
    this.#oneAtATime = false
    if (!this.#ending) this.flush()
    this.#ending = true
    this.#ended = true
    // Node holds what is written in one tick together, and destroy() would drop it.
    process.nextTick(destroy, this.#response)
    if (this.#forgetSocket === undefined || this.#response.socket !== null) return
    // It waits behind a pipelined one, and says nothing.
    this.#forgetSocket()
    this.#forgetSocket = undefined
    this.#response.off('close', this.#onClose)
    process.nextTick(this.#onClose)
  }

  #scheduleFlush (): void {
    if (this.#flushScheduled) return
    this.#flushScheduled = true
    // The next tick comes when the microtasks are dry: what is ready leaves together, what must wait leaves at once.
    process.nextTick(flushScheduled, this)
  }

  /** Runs the scheduled flush. */
  static flushScheduled (connection: Connection): void {
    connection.#flushScheduled = false
    connection.flush()
  }

  readonly #acknowledge = (error?: Error | null): void => {
    this.#acknowledged++
    this.#waitingSince = performance.now()
    // TLS takes nothing at once: a timer for each write would cost more than one that finds nothing to do.
    if (this.#deadline !== undefined && !this.#isWaiting && this.#framed?.isEncrypted === false) {
      clearTimeout(this.#deadline)
      this.#deadline = undefined
    }
    if (this.#oneAtATime && !error) this.flush()
    this.#tellFlushed()
  }

  #tellFlushed (): void {
    if (this.#flushed === undefined || (this.#isWaiting && !this.#closed)) return
    const waiting = this.#flushed
    this.#flushed = undefined
    for (const resolve of waiting) resolve(!this.#closed)
  }

  get #canHandOver (): boolean {
    return this.#queue.bytes > 0 && !this.#blocked && !(this.#oneAtATime && this.#writes !== this.#acknowledged)
  }

  get #isWaiting (): boolean {
    return this.#writes !== this.#acknowledged || this.#queue.bytes > 0
  }

  readonly #onDrain = (): void => {
    this.#blocked = false
    this.flush()
  }

  #giveRoom (open = true): void {
    if (this.#room === undefined || (open && !this.hasRoom)) return
    const waiting = this.#room
    this.#room = undefined
    for (const resolve of waiting) resolve(open)
  }

  // What the system has taken at once is acknowledged in the next tick. What a hook has taken may be stuck there.
  #watchUnlessTaken (sink: Sink): void {
    const isOfSystem = sink === this.#framed || sink === this.#response as Sink
    if (!isOfSystem || this.#queue.bytes > 0 || sink.writableLength > 0) this.#watch()
  }

  #watch (milliseconds = this.#writeTimeout): void {
    if (this.#writeTimeout === 0 || this.#deadline !== undefined) return
    this.#deadline = setTimeout(() => this.#checkProgress(), milliseconds)
    this.#deadline.unref()
  }

  #checkProgress (): void {
    this.#deadline = undefined
    if (isHttp2(this.#response)) {
      // Reset without an error after its end: there was no event.
      if (this.#response.stream.closed) return destroyStream(this.#response.stream)
      if (!this.#isWaiting) return this.#watch()
    } else if (!this.#isWaiting) {
      return
    }
    const isBehindAnother = !isHttp2(this.#response) && !this.#response.writableFinished && this.#response.socket === null
    const left = this.#waitingSince + this.#writeTimeout - performance.now()
    if (isBehindAnother) this.#watch()
    else if (left > 0) this.#watch(Math.ceil(left))
    else this.#events.onStalled()
  }

  readonly #onFinish = (): void => {
    const response = this.#response
    // 'finish' also comes when the client has left with bytes waiting, and when it has reset an HTTP/2 stream.
    this.#finished = isHttp2(response)
      ? response.stream.rstCode === constants.NGHTTP2_NO_ERROR && !response.stream.aborted
      : !this.#request.socket.destroyed
    if (!this.#finished) return
    this.#acknowledged = this.#writes
    this.#tellFlushed()
    if (isHttp2(response)) this.#onClose()
  }

  readonly #onClose = (): void => {
    this.#closed = true
    clearTimeout(this.#deadline)
    const response = this.#response
    if (isHttp2(response)) response.stream.off('finish', this.#onFinish)
    response.off('finish', this.#onFinish)
    response.off('close', this.#onClose)
    this.#forgetSocket?.()
    this.#sink?.off('drain', this.#onDrain)
    this.#queue.clear()
    this.#giveRoom(false)
    this.#tellFlushed()
    this.#events.onClosed(this.#finished)
  }
}

const { flushScheduled } = Connection

function isHttp2 (response: RawResponse): response is Http2ServerResponse {
  return 'stream' in response
}

function destroy (response: RawResponse): void {
  if (isHttp2(response)) {
    response.stream.close(constants.NGHTTP2_INTERNAL_ERROR)
    // It does not close by itself when its client has reset it, or takes nothing at all.
    setImmediate(destroyStream, response.stream)
  } else if (response.headersSent && !response.chunkedEncoding && isTcp(response.socket)) {
    // Without chunks a body ends where the connection does: only a reset says that it is not whole.
    response.socket.resetAndDestroy()
  } else {
    response.destroy()
  }
}

function destroyStream (stream: ServerHttp2Stream): void {
  stream.destroy()
}

function isTcp (socket: ServerResponse['socket']): socket is NonNullable<ServerResponse['socket']> {
  // TLS sockets and pipes cannot be reset.
  return socket !== null && !('encrypted' in socket) && socket.remoteAddress !== undefined && typeof socket.resetAndDestroy === 'function'
}

function noop (): void {}
