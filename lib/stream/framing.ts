/**
 * HTTP/1.1 chunks that are framed here and written to the socket, past `response.write()`: one write a chunk instead of
 * three, and one buffer for all who get the same bytes. What this relies on of Node is in this file alone; where any of
 * it is missing, the response itself takes the chunks.
 * https://www.rfc-editor.org/rfc/rfc9112#section-7.1
 */
import { OutgoingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Sink } from './connection.ts'

/** Bytes that several responses get: framed once for all of them. */
export class SharedChunk {
  readonly bytes: Buffer
  #framed: Buffer | undefined

  constructor (bytes: Buffer) {
    this.bytes = bytes
  }

  get length (): number {
    return this.bytes.length
  }

  get framed (): Buffer {
    this.#framed ??= Buffer.concat([Buffer.from(`${this.bytes.length.toString(16)}\r\n`), this.bytes, lineBreak])
    return this.#framed
  }
}

const lineBreak = Buffer.from('\r\n')

// Larger ones are not copied to stand between their size and the line break.
const copiedBytes = 4096

/** The socket of a response that sends chunks, for as long as the response has it. */
export class FramedResponse implements Sink {
  readonly #response: ServerResponse
  readonly #socket: Socket

  private constructor (response: ServerResponse, socket: Socket) {
    this.#response = response
    this.#socket = socket
  }

  /**
   * Undefined for a response whose chunks are not to be framed here: it has no head or no socket yet, another encoding
   * (HTTP/1.0, a length), is no socket's at all (`inject()`), or somebody watches what is written to it.
   */
  static of (response: ServerResponse): FramedResponse | undefined {
    const { socket } = response
    const isPlain = response.write === OutgoingMessage.prototype.write && response.end === OutgoingMessage.prototype.end
    if (!response.headersSent || !response.chunkedEncoding || socket === null || !isPlain) return undefined
    return new FramedResponse(response, socket)
  }

  get writableLength (): number {
    return this.#socket.writableLength
  }

  get isEncrypted (): boolean {
    return 'encrypted' in this.#socket
  }

  write (chunk: string | Uint8Array, done: (error?: Error | null) => void): boolean {
    this.#release()
    // The system may have taken all of a chunk that was too large for the buffer.
    return this.#write(chunk, done) || this.#socket.writableLength === 0
  }

  writeShared (chunk: SharedChunk, done: (error?: Error | null) => void): boolean {
    this.#release()
    return this.#socket.write(chunk.framed, done) || this.#socket.writableLength === 0
  }

  end (chunk?: string | Uint8Array): void {
    this.#release()
    const socket = this.#socket
    socket.cork()
    if (chunk !== undefined) this.#write(chunk)
    this.#response.end()
    socket.uncork()
  }

  on (event: 'drain', listener: () => void): void {
    this.#socket.on(event, listener)
    // For what the response has written itself, which may not fill the socket.
    this.#response.on(event, listener)
  }

  off (event: 'drain', listener: () => void): void {
    this.#socket.off(event, listener)
    this.#response.off(event, listener)
  }

  #write (chunk: string | Uint8Array, done?: (error?: Error | null) => void): boolean {
    const socket = this.#socket
    if (typeof chunk === 'string') {
      const bytes = Buffer.byteLength(chunk)
      // ASCII needs no encoding.
      return socket.write(`${bytes.toString(16)}\r\n${chunk}\r\n`, bytes === chunk.length ? 'latin1' : 'utf8', done)
    }
    const size = `${chunk.length.toString(16)}\r\n`
    if (chunk.length <= copiedBytes) return socket.write(Buffer.concat([Buffer.from(size), chunk, lineBreak]), done)
    socket.cork()
    socket.write(size, 'latin1')
    socket.write(chunk)
    const hasRoom = socket.write(lineBreak, done)
    socket.uncork()
    return hasRoom
  }

  // What the response holds back for the end of the tick comes first.
  #release (): void {
    while (this.#response.writableCorked > 0) this.#response.uncork()
  }
}
