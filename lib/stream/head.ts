/**
 * The headers that a stream sets on its reply, and takes off again when an error takes its place.
 */
import type { FastifyReply } from 'fastify'

export class Head {
  readonly #reply: FastifyReply
  readonly #names: string[] = []

  /** Sets what tells about the body, and what keeps proxies and caches from holding it, where the user has set none. */
  constructor (reply: FastifyReply, contentHeaders: Record<string, string>) {
    this.#reply = reply
    // That of a relayed reply, for example: Node says how it sends a body.
    if (reply.hasHeader('transfer-encoding')) reply.removeHeader('transfer-encoding')
    for (const [name, value] of Object.entries(contentHeaders)) this.#set(name, value)
    if (!reply.hasHeader('cache-control')) this.#set('cache-control', 'no-cache, no-transform')
    if (!reply.hasHeader('x-accel-buffering')) this.#set('x-accel-buffering', 'no')
    // A hook that compresses says so before it has read anything; an error in place of the stream is not compressed yet.
    if (!reply.hasHeader('content-encoding')) this.#names.push('content-encoding')
  }

  takeBack (): void {
    for (const name of this.#names) {
      this.#reply.removeHeader(name)
      // Fastify before 5.12 leaves there what it has copied to the response.
      if (!this.#reply.raw.headersSent) this.#reply.raw.removeHeader(name)
    }
  }

  #set (name: string, value: string): void {
    this.#reply.header(name, value)
    this.#names.push(name)
  }
}
