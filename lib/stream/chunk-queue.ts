/**
 * The chunks that wait for a client, handed out in slices.
 */

// Progress inside one large write shows only when the write is split.
const sliceBytes = 64 * 1024
// What is shorter is copied together while it waits: many small chunks would cost more than their bytes.
const joinedBytes = 16 * 1024
// A UTF-16 code unit becomes at most three bytes.
const bytesPerUnit = 3

export class ChunkQueue {
  /** Bytes that wait. */
  bytes = 0
  readonly #largestSlice: number
  readonly #chunks: Array<string | Uint8Array> = []
  /** The memory behind the last chunk when it was copied together here. */
  #block: Buffer | undefined

  constructor (largestSlice = sliceBytes) {
    this.#largestSlice = largestSlice
  }

  /** True while less than a slice waits. */
  get isShort (): boolean {
    return this.bytes < sliceBytes
  }

  /** Takes a chunk of so many bytes. */
  push (chunk: string | Uint8Array, bytes: number): void {
    if (bytes === 0) return
    const last = this.#chunks.length - 1
    const tail = this.#chunks[last]
    if (typeof tail === 'string' && typeof chunk === 'string' && (tail.length + chunk.length) * bytesPerUnit < sliceBytes) {
      this.#chunks[last] = tail + chunk
    } else if (tail !== undefined && typeof tail !== 'string' && tail.length + bytes <= joinedBytes) {
      this.#chunks[last] = this.#join(tail, chunk, bytes)
    } else {
      this.#block = undefined
      this.#chunks.push(chunk)
    }
    this.bytes += bytes
  }

  /** Puts ASCII text before everything that waits. */
  unshift (text: string): void {
    const first = this.#chunks[0]
    if (typeof first === 'string') this.#chunks[0] = text + first
    else this.#chunks.unshift(text)
    this.bytes += text.length
  }

  /** Takes the next slice out; there has to be one. */
  shift (): string | Uint8Array {
    let chunk = this.#chunks[0]
    if (typeof chunk === 'string' && chunk.length * bytesPerUnit > this.#largestSlice) chunk = Buffer.from(chunk)
    if (typeof chunk !== 'string' && chunk.length > this.#largestSlice) {
      this.#chunks[0] = chunk.subarray(this.#largestSlice)
      chunk = chunk.subarray(0, this.#largestSlice)
    } else {
      this.#chunks.shift()
    }
    this.bytes -= Buffer.byteLength(chunk)
    if (this.bytes === 0) this.clear()
    return chunk
  }

  /** Takes everything out, in one piece. */
  shiftAll (): Buffer {
    const [first] = this.#chunks
    const all = this.#chunks.length === 1 && typeof first === 'string'
      ? Buffer.from(first)
      : Buffer.concat(this.#chunks.map(chunk => typeof chunk === 'string' ? Buffer.from(chunk) : chunk))
    this.clear()
    return all
  }

  clear (): void {
    this.#chunks.length = 0
    this.#block = undefined
    this.bytes = 0
  }

  #join (tail: Uint8Array, chunk: string | Uint8Array, bytes: number): Uint8Array {
    const length = tail.length + bytes
    let block = this.#block
    if (block === undefined || block.length < length) {
      block = Buffer.allocUnsafeSlow(Math.min(joinedBytes, 2 * length))
      block.set(tail)
      this.#block = block
    }
    if (typeof chunk === 'string') block.write(chunk, tail.length)
    else block.set(chunk, tail.length)
    return block.subarray(0, length)
  }
}
