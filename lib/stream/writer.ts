/**
 * `reply.streamWriter()`: a body of any other kind, written by a callback round after round or taken from a source.
 */
import { format, types } from 'node:util'
import type { FastifyReply } from 'fastify'
import { FST_STREAM_INVALID_CHUNK, FST_STREAM_SPINNING, FST_STREAM_UNAVAILABLE, kindOf, withCause } from '../errors.ts'
import { resolveCallOptions, writerCallRules, type ResolvedOptions } from '../options.ts'
import { Lifecycle, refused, type Farewell, type Host, type StreamOutcome } from './lifecycle.ts'
import { claim } from './payload.ts'
import { ignoreRejection, isPromiseLike } from './promise-like.ts'
import { openChunks } from './source.ts'

/** Writes the body of one reply. */
export interface StreamWriter {
  /**
   * Writes one chunk, which leaves at once. Resolves `true` once it is accepted and there is room for the next one,
   * `false` when the stream has ended. Never rejects because the client left; rejects with FST_STREAM_INVALID_CHUNK,
   * which is also logged at warn, needs no handler, and leaves the stream open. What is written without waiting
   * queues up to `maxBuffered` bytes. May be passed around unbound.
   * Bytes are not copied: change them only after `flush()`.
   */
  readonly write: (chunk: string | Uint8Array) => Promise<boolean>
  /** Writes a text formatted as by `util.format`. Resolves as `write` does. */
  readonly writef: (format: string, ...args: unknown[]) => Promise<boolean>
  /** Writes a text and LF. Resolves as `write` does. */
  readonly writeln: (text?: string) => Promise<boolean>
  /** Writes a value as one line of NDJSON. Resolves as `write` does. */
  readonly json: (value: unknown) => Promise<boolean>
  /** Sends the head if need be. Resolves `true` when the socket has taken everything, `false` when the stream has ended before. */
  readonly flush: () => Promise<boolean>
  /** Writes a last chunk, if there is one, and ends the body properly. Resolves as `write` does for the chunk. */
  readonly end: (chunk?: string | Uint8Array) => Promise<boolean>
  /** Settles with the outcome after the response has closed. Never rejects. */
  readonly closed: Promise<StreamOutcome>
  /** Aborts as soon as the stream ends, also when the client leaves; its reason is an `AbortError` with the `reason` of the outcome. */
  readonly signal: AbortSignal
  /** How often the callback was called before: 0, 1, 2 … */
  readonly round: number
  /** Bytes of the body so far. */
  readonly bytes: number
  /** Bytes that wait for the client. */
  readonly bufferedBytes: number
}

/** What `reply.streamWriter()` can take its chunks from. */
export type ChunkSource =
  | AsyncIterable<string | Uint8Array>
  // A string is iterable, too.
  | (Iterable<string | Uint8Array> & object)
  | NodeJS.ReadableStream
  | ReadableStream<unknown>

/**
 * Called again and again until it returns `false`, calls `writer.end()` or throws, or the stream ends. When it
 * returns or resolves with a source it is called once, and the stream ends with that source.
 */
export type StreamWriterCallback = (writer: StreamWriter) =>
  ChunkSource | boolean | undefined | void | Promise<ChunkSource | boolean | undefined | void>

const mostIdleRounds = 1000
const sourceRule = 'a callback, an (async) iterable or a stream'
const resultRule = 'what a callback returns: false, true, undefined, an (async) iterable or a stream'
const chunkRule = 'a string or a Uint8Array; for an object use writer.json(row)'
const lineRule = 'a value that serializes to one line of text'

/**
 * Runs `reply.streamWriter(source, options)`. Throws FST_STREAM_ALREADY_STREAMING; every other error becomes Fastify's
 * error reply, or cuts the body. Resolves with the outcome.
 */
export function sendStreamWriter (host: Host, reply: FastifyReply, [source, callOptions]: unknown[], plugin: ResolvedOptions): Promise<StreamOutcome> {
  claim(reply, source)
  const { options, invalid } = resolveCallOptions(callOptions, writerCallRules, plugin)
  const stream = new StreamWriterReply(host, reply, options)
  stream.start(source, invalid)
  return stream.closed
}

class StreamWriterReply extends Lifecycle {
  readonly kind = 'writer'
  round = 0
  #isJson = false

  write (chunk: unknown): Promise<boolean> {
    return this.#attempt(() => this.push(checkedChunk(chunk), 0))
  }

  writef (text: string, args: unknown[]): Promise<boolean> {
    return this.#attempt(() => this.push(checkedChunk(format(text, ...args)), 0))
  }

  writeln (text: unknown = ''): Promise<boolean> {
    return this.#attempt(() => {
      if (typeof text !== 'string') throw new FST_STREAM_INVALID_CHUNK('a string in writeln(text)', kindOf(text))
      return this.push(checkedChunk(`${text}\n`), 0)
    })
  }

  json (value: unknown): Promise<boolean> {
    return this.#attempt(() => {
      const line = checkedChunk(this.#jsonLine(value))
      // Counts for the head only, which the first write sends.
      this.#isJson = true
      return this.push(line, 0)
    })
  }

  flush (): Promise<boolean> {
    if (!this.isOpen) return refused
    this.commit()
    return this.connection.flushed()
  }

  finish (chunk: unknown): Promise<boolean> {
    return this.#attempt(() => {
      if (chunk !== undefined) void this.push(checkedChunk(chunk), 0)
      const isAccepted = Promise.resolve(this.isOpen)
      this.end('completed')
      return isAccepted
    })
  }

  protected isDone (): boolean {
    return false
  }

  protected run (source: unknown): void {
    if (typeof source === 'function') void this.#loop(source as StreamWriterCallback)
    else this.consume(source, openChunks, sourceRule)
  }

  protected contentHeaders (): Record<string, string> {
    const { reply } = this
    // @fastify/compress would hold every chunk back until its buffer is full.
    reply.request.raw.headers['x-no-compression'] ??= 'true'
    if (reply.hasHeader('content-type') || reply.request.method === 'HEAD') return {}
    if (this.#isJson) return { 'content-type': 'application/x-ndjson' }
    // Browsers hold back unlabelled text while they guess its type.
    return { 'content-type': 'text/plain; charset=utf-8', ...!reply.hasHeader('x-content-type-options') && { 'x-content-type-options': 'nosniff' } }
  }

  protected prelude (): string {
    return ''
  }

  protected farewell (reason: StreamOutcome['reason']): Farewell {
    return reason === 'completed' ? { last: '' } : 'cut'
  }

  protected errorReply (reason: StreamOutcome['reason']): Error | undefined {
    return reason === 'completed' ? undefined : new FST_STREAM_UNAVAILABLE(reason)
  }

  protected take (item: unknown): void {
    this.accept(checkedChunk(item), 0)
  }

  async #loop (callback: StreamWriterCallback): Promise<void> {
    const writer = new PublicStreamWriter(this)
    let turn = new Turn()
    let idleRounds = 0
    try {
      for (;; this.round++) {
        const { bytes } = this
        let result: unknown = callback(writer)
        // A reply can be waited for, until this stream has ended.
        if (result !== this.reply && isPromiseLike(result)) result = await result
        const hasWaited = turn.isOver
        if (result !== undefined && typeof result !== 'boolean') {
          this.consume(result, openChunks, resultRule)
          return
        }
        if (result === false) break
        this.connection.flush()
        await this.connection.room()
        idleRounds = hasWaited || bytes !== this.bytes ? 0 : idleRounds + 1
        if (idleRounds === mostIdleRounds) throw new FST_STREAM_SPINNING(mostIdleRounds)
        turn = new Turn()
        await turn.begun
        if (!this.isOpen) return
      }
    } catch (error) {
      this.fail(error)
      return
    }
    this.end('completed')
  }

  #attempt (send: () => Promise<boolean>): Promise<boolean> {
    if (!this.isOpen) return refused
    try {
      return send()
    } catch (error) {
      return this.reject(error)
    }
  }

  #jsonLine (value: unknown): string {
    let text: unknown
    try {
      text = this.options.serialize(value)
    } catch (cause) {
      throw withCause(new FST_STREAM_INVALID_CHUNK(lineRule, kindOf(value)), cause)
    }
    ignoreRejection(text)
    if (typeof text !== 'string' || text.includes('\n')) throw new FST_STREAM_INVALID_CHUNK(lineRule, kindOf(value))
    return `${text}\n`
  }
}

/** One turn of the event loop: the next round begins with it. */
class Turn {
  /** What is still pending now waits for a timer, a socket or another turn. */
  isOver = false
  readonly begun = new Promise<void>(resolve => {
    setImmediate(resolve)
    // Right behind the first: a round of microtasks alone has ended by then, and no timer and no socket had its turn yet.
    setImmediate(() => { this.isOver = true })
  })
}

class PublicStreamWriter implements StreamWriter {
  readonly #stream: StreamWriterReply
  readonly closed: Promise<StreamOutcome>
  readonly write: StreamWriter['write']
  readonly writef: StreamWriter['writef']
  readonly writeln: StreamWriter['writeln']
  readonly json: StreamWriter['json']
  readonly flush: StreamWriter['flush']
  readonly end: StreamWriter['end']

  constructor (stream: StreamWriterReply) {
    this.#stream = stream
    this.closed = stream.closed
    this.write = chunk => stream.write(chunk)
    this.writef = (text, ...args) => stream.writef(text, args)
    this.writeln = text => stream.writeln(text)
    this.json = value => stream.json(value)
    this.flush = () => stream.flush()
    this.end = chunk => stream.finish(chunk)
  }

  get signal (): AbortSignal { return this.#stream.signal }
  get round (): number { return this.#stream.round }
  get bytes (): number { return this.#stream.bytes }
  get bufferedBytes (): number { return this.#stream.bufferedBytes }
}

function checkedChunk (chunk: unknown): string | Uint8Array {
  if (typeof chunk === 'string') {
    if (chunk.isWellFormed()) return chunk
    throw new FST_STREAM_INVALID_CHUNK('well-formed Unicode when it is a string (a character is cut in half)', kindOf(chunk))
  }
  if (types.isUint8Array(chunk)) return chunk
  // A promise that should have been awaited must not be able to kill the process.
  ignoreRejection(chunk)
  throw new FST_STREAM_INVALID_CHUNK(chunkRule, kindOf(chunk))
}
