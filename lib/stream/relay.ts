/**
 * The event stream of another server, cut into whole blocks that are passed on byte for byte.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */
import { types } from 'node:util'
import { FST_STREAM_INVALID_SOURCE, kindOf } from '../errors.ts'
import { openBytes, openSource, type Source } from './source.ts'

const CR = 13
const LF = 10
const COLON = 58
const byteOrderMark = Buffer.of(0xEF, 0xBB, 0xBF)

/** Whole blocks, as they came. */
export class RelayedBlocks {
  readonly bytes: Uint8Array
  /** How many of the blocks are more than comments. */
  readonly events: number
  /** The first byte is the LF of a CRLF whose CR ended the blocks before: to be left out if anything was written since. */
  readonly continuesLineBreak: boolean

  constructor (bytes: Uint8Array, events: number, continuesLineBreak: boolean) {
    this.bytes = bytes
    this.events = events
    this.continuesLineBreak = continuesLineBreak
  }
}

/**
 * Opens a fetch `Response` as blocks. An unfinished last block is dropped, as clients do.
 * Throws FST_STREAM_INVALID_SOURCE (502) unless it is an unread 2xx `text/event-stream`.
 */
export function openRelay (response: Response, maxBlock: number): Source {
  const type = response.headers.get('content-type')
  if (response.status < 200 || response.status > 299) throw badGateway('a Response with a 2xx status', String(response.status))
  if (type === null || !/^text\/event-stream\s*(;|$)/i.test(type)) {
    throw badGateway('a Response of the type text/event-stream', String(type))
  }
  // A Response that was made without a body.
  if (response.body === null) return openSource([]) as Source
  const body = response.bodyUsed ? undefined : openBytes(response.body)
  if (body === undefined) throw badGateway('a Response whose body nobody has read', kindOf(response))
  return new Relay(body, maxBlock)
}

class Relay implements Source {
  readonly #body: Source
  readonly #blocks: BlockSplitter
  readonly #maxBlock: number

  constructor (body: Source, maxBlock: number) {
    this.#body = body
    this.#maxBlock = maxBlock
    this.#blocks = new BlockSplitter(maxBlock)
  }

  async next (): Promise<IteratorResult<unknown>> {
    for (;;) {
      if (this.#blocks.isTooLarge) {
        throw badGateway(`a Response whose blocks are at most ${this.#maxBlock} bytes (maxBuffered)`, 'a larger one')
      }
      const result = await this.#body.next()
      if (result.done === true) return result
      if (!types.isUint8Array(result.value)) {
        throw badGateway('a Response whose body is bytes', kindOf(result.value))
      }
      const value = this.#blocks.push(result.value)
      if (value !== undefined) return { done: false, value }
    }
  }

  release (): void {
    this.#body.release()
  }
}

/** Finds block ends in a byte stream that is cut anywhere. */
export class BlockSplitter {
  /** A block is larger than allowed: the ones before it have been returned, nothing comes after. */
  isTooLarge = false
  readonly #maxBlock: number
  /** The bytes of the block that is not whole yet, and of a byte order mark that may not be whole. */
  #rest: Uint8Array[] = []
  #restLength = 0
  #started = false
  #afterCR = false
  #lineLength = 0
  #hasField = false
  /** The last bytes given out ended with the CR of what may be a CRLF. */
  #maybeLineFeed = false

  constructor (maxBlock: number) {
    this.#maxBlock = maxBlock
  }

  /**
   * Takes the next bytes; returns the blocks that are whole now, or `undefined`. A comment line before the first field
   * of a block is passed on at once: upstream heartbeats need no blank line.
   */
  push (chunk: Uint8Array): RelayedBlocks | undefined {
    if (!this.#started) {
      chunk = this.#takeRest(chunk)
      if (chunk.length < 3 && byteOrderMark.subarray(0, chunk.length).equals(chunk)) {
        this.#keep(chunk)
        return undefined
      }
      this.#started = true
      // Only at the start of a stream is it no part of the first field name, and ours may start with a `retry`.
      if (byteOrderMark.equals(chunk.subarray(0, 3))) chunk = chunk.subarray(3)
    }
    const continuesLineBreak = this.#maybeLineFeed && chunk[0] === LF
    let blockStart = -this.#restLength
    let end = 0
    let events = 0
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]
      if (byte === LF && this.#afterCR) {
        this.#afterCR = false
        if (end === i && (i > 0 || continuesLineBreak)) blockStart = end = i + 1
        continue
      }
      this.#afterCR = byte === CR
      if (byte !== LF && byte !== CR) {
        if (this.#lineLength++ === 0 && byte !== COLON) this.#hasField = true
        continue
      }
      const isBlank = this.#lineLength === 0
      this.#lineLength = 0
      if (!isBlank && this.#hasField) continue
      if (i + 1 - blockStart > this.#maxBlock) break
      blockStart = end = i + 1
      if (this.#hasField) events++
      this.#hasField = false
    }
    this.isTooLarge ||= chunk.length - blockStart > this.#maxBlock
    if (chunk.length > 0) this.#maybeLineFeed = end === chunk.length && this.#afterCR
    if (end === 0) {
      this.#keep(chunk)
      return undefined
    }
    const bytes = this.#takeRest(chunk.subarray(0, end))
    this.#keep(chunk.subarray(end))
    return new RelayedBlocks(bytes, events, continuesLineBreak)
  }

  #keep (bytes: Uint8Array): void {
    if (bytes.length === 0) return
    this.#rest.push(bytes)
    this.#restLength += bytes.length
  }

  #takeRest (bytes: Uint8Array): Uint8Array {
    const taken = this.#restLength === 0 ? bytes : Buffer.concat([...this.#rest, bytes])
    this.#rest = []
    this.#restLength = 0
    return taken
  }
}

function badGateway (rule: string, got: string): Error {
  const error = new FST_STREAM_INVALID_SOURCE(rule, got)
  error.statusCode = 502
  return error
}
