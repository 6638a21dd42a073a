/**
 * Anything that can be read, as one iterator shape that is released exactly once.
 */
import { types } from 'node:util'
import type { Readable } from 'node:stream'
import type { ReadableStream, ReadableStreamDefaultReader } from 'node:stream/web'
import { ignoreRejection, isPromiseLike } from './promise-like.ts'

/** One reader of one source. */
export interface Source {
  /** The next item; never asked for again while an answer is pending, after the end, or after `release()`. */
  next (): IteratorResult<unknown> | PromiseLike<IteratorResult<unknown>>
  /** Is told that what `next()` gave was the end, or an error. */
  finished? (): void
  /** Lets go of a source that has not ended by itself. Waits for nothing; further calls do nothing. */
  release (): void
}

type AnyIterator = Iterator<unknown> | AsyncIterator<unknown>

/**
 * Opens what `for await` could read, a Node stream, or a web stream: items as they are, byte chunks of streams as
 * text. Returns `undefined` for anything else. Throws what the source throws when it is asked for its iterator.
 */
export function openSource (source: unknown): Source | undefined {
  if (!isObject(source) || types.isUint8Array(source)) return undefined
  if (isReadable(source)) return new DecodedSource(new ReadableSource(source))
  if (isReadableStream(source)) return source.locked ? undefined : new DecodedSource(new WebStreamSource(source))
  if (typeof source[Symbol.asyncIterator] === 'function') {
    return new IteratorSource((source as unknown as AsyncIterable<unknown>)[Symbol.asyncIterator]())
  }
  if (typeof source[Symbol.iterator] === 'function') {
    return new SyncIteratorSource((source as unknown as Iterable<unknown>)[Symbol.iterator]())
  }
  return undefined
}

/** Opens the same sources, with the chunks of streams as they are. */
export function openChunks (source: unknown): Source | undefined {
  return openBytes(source) ?? openSource(source)
}

/** Opens a byte stream without decoding it: what a fetch `Response` has as its body. */
export function openBytes (body: unknown): Source | undefined {
  if (!isObject(body)) return undefined
  if (isReadable(body)) return new ReadableSource(body)
  if (isReadableStream(body) && !body.locked) return new WebStreamSource(body)
  return undefined
}

/** Releases a source that was handed over and will never be read. */
export function releaseUnread (source: unknown): void {
  try {
    if (isPromiseLike(source)) {
      source.then(releaseUnread, noop)
    } else if (isResponse(source)) {
      if (!source.bodyUsed) openBytes(source.body)?.release()
    } else {
      openSource(source)?.release()
    }
  } catch {
    // A source that cannot even give its iterator holds nothing that could be released.
  }
}

/** True for a fetch `Response` of any realm or implementation. */
export function isResponse (source: unknown): source is Response {
  return Object.prototype.toString.call(source) === '[object Response]'
}

class IteratorSource implements Source {
  readonly #iterator: AnyIterator
  #over = false

  constructor (iterator: AnyIterator) {
    this.#iterator = iterator
  }

  next (): IteratorResult<unknown> | PromiseLike<IteratorResult<unknown>> {
    return this.#iterator.next()
  }

  // Told by the reader, as a promise of its own for each item would cost more than the item. One that throws has finished
  // too: `for await` does not call return() either.
  finished (): void {
    this.#over = true
  }

  release (): void {
    if (this.#over) return
    this.#over = true
    returnIterator(this.#iterator)
  }
}

/** Takes items without a promise each; an item that is a promise is awaited, as `for await` does. */
class SyncIteratorSource implements Source {
  readonly #iterator: Iterator<unknown>
  #over = false
  #isRunning = false

  constructor (iterator: Iterator<unknown>) {
    this.#iterator = iterator
  }

  next (): IteratorResult<unknown> | PromiseLike<IteratorResult<unknown>> {
    let result: IteratorResult<unknown>
    this.#isRunning = true
    try {
      result = this.#iterator.next()
    } catch (error) {
      this.#over = true
      throw error
    } finally {
      this.#isRunning = false
    }
    if (result.done === true) this.#over = true
    else if (this.#over) returnIterator(this.#iterator)
    if (result.done === true || !isPromiseLike(result.value)) return result
    return Promise.resolve(result.value).then(value => ({ done: false, value }))
  }

  release (): void {
    if (this.#over) return
    this.#over = true
    // A generator that ends its own stream can be returned only when it has given its item.
    if (!this.#isRunning) returnIterator(this.#iterator)
  }
}

function returnIterator (iterator: AnyIterator): void {
  try {
    // Nothing waits for return(): a generator that is waiting itself would answer only when its await settles.
    ignoreRejection(iterator.return?.())
  } catch {
    // The stream is over; what goes wrong while its source cleans up has no reader any more.
  }
}

/** Reads through the stream's own iterator, but releases with destroy(), which does not queue behind a pending read. */
class ReadableSource implements Source {
  readonly #readable: Readable
  readonly #iterator: AsyncIterator<unknown>
  #over = false

  constructor (readable: Readable) {
    this.#readable = readable
    // Its errors come by the iterator. It may emit one when it has ended or was released, too.
    readable.on('error', noop)
    this.#iterator = readable[Symbol.asyncIterator]()
  }

  async next (): Promise<IteratorResult<unknown>> {
    const result = await this.#iterator.next()
    if (result.done === true) this.#over = true
    return result
  }

  release (): void {
    if (this.#over) return
    this.#over = true
    try {
      this.#readable.destroy()
    } catch {
      // Nothing can be done for a stream that cannot be destroyed.
    }
  }
}

class WebStreamSource implements Source {
  readonly #reader: ReadableStreamDefaultReader
  #over = false

  constructor (stream: ReadableStream) {
    this.#reader = stream.getReader()
  }

  async next (): Promise<IteratorResult<unknown>> {
    const result = await this.#reader.read()
    if (result.done === true) this.#over = true
    return result
  }

  release (): void {
    if (this.#over) return
    this.#over = true
    this.#reader.cancel().then(noop, noop)
  }
}

/** Turns byte chunks into text across chunk borders: one item a chunk, none for a chunk that completes no character. */
class DecodedSource implements Source {
  readonly #source: Source
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  #ended: IteratorResult<unknown> | undefined

  constructor (source: Source) {
    this.#source = source
  }

  async next (): Promise<IteratorResult<unknown>> {
    if (this.#ended !== undefined) return this.#ended
    for (;;) {
      const result = await this.#source.next()
      if (result.done === true) {
        this.#ended = result
        const rest = this.#decoder.decode()
        return rest === '' ? result : { done: false, value: rest }
      }
      if (!types.isUint8Array(result.value)) return result
      const text = this.#decoder.decode(result.value, { stream: true })
      if (text !== '') return { done: false, value: text }
    }
  }

  release (): void {
    this.#source.release()
  }
}

function isObject (value: unknown): value is Record<PropertyKey, unknown> {
  return typeof value === 'object' && value !== null
}

function isReadable (value: object): value is Readable {
  const stream = value as Partial<Readable>
  return typeof stream.pipe === 'function' && typeof stream.on === 'function' && typeof stream.destroy === 'function' &&
    typeof stream[Symbol.asyncIterator] === 'function'
}

function isReadableStream (value: object): value is ReadableStream {
  const stream = value as Partial<ReadableStream>
  return typeof stream.getReader === 'function' && typeof stream.cancel === 'function'
}

function noop (): void {}
