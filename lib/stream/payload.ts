/**
 * How a stream goes through `reply.send()`: what Fastify gets to pipe, and who else may send on that reply meanwhile.
 */
import type { ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { FST_STREAM_ALREADY_STREAMING } from '../errors.ts'
import type { RawResponse, Sink } from './connection.ts'
import { releaseUnread } from './source.ts'

/** The stream that has taken a reply. */
export interface ReplyOwner {
  /** The way is open: into the raw response, or into the payload because a hook has begun to read it. */
  attach (sink: Sink): void
  /** A hook that was reading the payload has destroyed it before its end. */
  dropped (error: Error | null): void
  /** The handler threw or rejected. */
  handlerFailed (error: unknown): void
  /** Fastify is about to send an error on this reply. */
  replacedByError (error: unknown): void
  /** True for what the call has resolved with before its end: a handler may return it. */
  gave (value: unknown): boolean
}

const kOwner = Symbol('fastify-streaming.owner')
const kSent = Symbol('fastify-streaming.sent')
const kSend = Symbol('fastify-streaming.send')

type OwnedReply = FastifyReply & { [kOwner]?: ReplyOwner, [kSent]?: boolean, [kSend]?: FastifyReply['send'], [key: symbol]: unknown }
const responseEvents = ['close', 'finish', 'end', 'error'] as const

/**
 * What `reply.send()` gets. When Fastify pipes it into the raw response and nobody has read it before, the response is
 * handed over and this object is done with; otherwise it is an ordinary Readable.
 */
export class Payload extends Readable implements Sink {
  readonly #response: RawResponse
  readonly #owner: ReplyOwner
  #listenersBefore: unknown[][] = []
  #acknowledgements: Array<() => void> = []
  #isRead = false

  constructor (response: RawResponse, owner: ReplyOwner) {
    super()
    this.#response = response
    this.#owner = owner
    // A hook that has its error from somewhere else must not have to listen for it.
    this.on('error', noop)
  }

  override on (event: string | symbol, listener: (...args: any[]) => void): this {
    // Fastify watches the payload and then the response, and pipes: the last look before the pipe is the one that counts.
    if (event === 'close') this.#listenersBefore = responseEvents.map(name => this.#response.rawListeners(name))
    return super.on(event, listener)
  }

  override pipe<T extends NodeJS.WritableStream> (destination: T, options?: { end?: boolean }): T {
    // Fastify finds out by itself that a hook has destroyed the payload, and sends its error.
    if (destination as unknown !== this.#response || this.destroyed) return super.pipe(destination, options)
    // A hook looks at what it passes on: the response gets the same, and its head as soon as without the hook.
    if (this.#isRead || this.readableFlowing !== null) {
      setImmediate(() => { if (!this.destroyed) (this.#response as ServerResponse).flushHeaders() })
      return super.pipe(destination, options)
    }
    this.#dropListenersOfFastify()
    this.#owner.attach(this.#response as unknown as Sink)
    return destination
  }

  get writableLength (): number {
    return this.readableLength
  }

  write (chunk: string | Uint8Array, done: () => void): boolean {
    this.#acknowledgements.push(done)
    return this.push(chunk)
  }

  end (chunk?: string | Uint8Array): void {
    if (chunk !== undefined) this.push(chunk)
    this.push(null)
  }

  // A hook reads the payload itself, or pipes it elsewhere. Fastify throws away the payload of a 204 by reading it.
  override _read (): void {
    if (!this.#isRead && !this.#response.writableEnded) {
      this.#isRead = true
      this.#owner.attach(this)
    }
    const acknowledgements = this.#acknowledgements
    this.#acknowledgements = []
    for (const acknowledge of acknowledgements) acknowledge()
    this.emit('drain')
  }

  override _destroy (error: Error | null, callback: (error?: Error | null) => void): void {
    if (this.#isRead && !this.readableEnded) this.#owner.dropped(error)
    callback(error)
  }

  // They would hold request, reply and payload for as long as the stream is open (2.5 KiB each), and log every client
  // that leaves as a stream that closed prematurely.
  #dropListenersOfFastify (): void {
    // Nobody has watched it: it was not Fastify that pipes.
    if (this.#listenersBefore.length === 0) return
    for (const [i, name] of responseEvents.entries()) {
      const before = new Set(this.#listenersBefore[i])
      for (const listener of this.#response.rawListeners(name)) {
        if (!before.has(listener)) this.#response.off(name, listener as () => void)
      }
    }
  }
}

/** A body without bytes, for HEAD. */
export function emptyPayload (): Readable {
  return Readable.from([])
}

/** The stream that has taken this reply, if any. */
export function ownerOf (reply: FastifyReply): ReplyOwner | undefined {
  return (reply as OwnedReply)[kOwner]
}

/**
 * Refuses a reply that streams already or was sent: throws FST_STREAM_ALREADY_STREAMING and releases the source that
 * was handed over with the call.
 */
export function claim (reply: FastifyReply, source: unknown): void {
  if (!reply.sent && ownerOf(reply) === undefined && !(reply as OwnedReply)[kSent]) return
  releaseUnread(source)
  throw new FST_STREAM_ALREADY_STREAMING()
}

/** Notes that what was sent is being replaced by an error reply. */
export function unmarkSent (reply: FastifyReply): void {
  (reply as OwnedReply)[kSent] = false
}

/** Makes `owner` the one who sends on this reply, until `disown()`. */
export function own (reply: FastifyReply, owner: ReplyOwner): void {
  (reply as OwnedReply)[kOwner] = owner
  // Somebody may have put a send() of his own on this reply, to trace it for example.
  if (Object.hasOwn(reply, 'send')) (reply as OwnedReply)[kSend] = reply.send
  reply.send = sendWhileOwned
  reply.hijack = hijackWhileOwned
}

/** Gives the reply back to Fastify: for its error reply, or because the stream is over. */
export function disown (reply: FastifyReply): void {
  if (ownerOf(reply) === undefined) return
  // Not deleted: an object that has lost a property is slow for whoever uses it.
  ;(reply as OwnedReply)[kOwner] = undefined
  reply.send = sendOf(reply)
  reply.hijack = (Object.getPrototypeOf(reply) as FastifyReply).hijack
}

/** Sends an error past the owner's guard, whatever was thrown. */
export function sendError (reply: FastifyReply, error: unknown): void {
  markError(reply, true)
  sendOf(reply).call(reply, error)
}

/** Sends past the owner's guard, also when the handler has failed meanwhile. */
export function sendOwned (reply: FastifyReply, ...payload: unknown[]): void {
  const isError = isSendingError(reply)
  if (isError) markError(reply, false)
  sendOf(reply).apply(reply, payload as [unknown])
  if (isError && ownerOf(reply) !== undefined) markError(reply, true)
}

function markError (reply: FastifyReply, isError: boolean): void {
  const key = internalKey(reply, 'fastify.reply.isError')
  if (key !== undefined) (reply as OwnedReply)[key] = isError
}

function sendOf (reply: FastifyReply): FastifyReply['send'] {
  return (reply as OwnedReply)[kSend] ?? (Object.getPrototypeOf(reply) as FastifyReply).send
}

/** The onSend hook of this package: notes that something was sent on the reply. */
export function markSentOnSend (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: () => void): void {
  (reply as OwnedReply)[kSent] = true
  done()
}

/** True when an onSend hook other than ours will be given what is sent on this reply. */
export function isSeenByHooks (reply: FastifyReply): boolean {
  const context = internal(reply.request, 'fastify.context') as { onSend?: Array<{ name: string }> } | undefined
  return context?.onSend?.every(isOurs) !== true
}

function isOurs (hook: { name: string }): boolean {
  let known = knownHooks.get(hook)
  // Fastify binds them.
  if (known === undefined) knownHooks.set(hook, known = hook.name === `bound ${markSentOnSend.name}`)
  return known
}

const knownHooks = new WeakMap<object, boolean>()

/** True when a trailer is set on the reply, now. */
export function hasTrailers (reply: FastifyReply): boolean {
  return trailersOf(reply).length > 0
}

/** Takes the trailers away, and what Fastify says of them in the head: an error reply has a length and no chunks. */
export function removeTrailers (reply: FastifyReply): void {
  const key = internalKey(reply, 'fastify.reply.trailers')
  // removeTrailer() leaves an empty entry, for which Fastify 5.0 still announces chunks.
  if (key !== undefined) (reply as OwnedReply)[key] = null
  for (const name of ['trailer', 'transfer-encoding']) {
    reply.removeHeader(name)
    reply.raw.removeHeader(name)
  }
}

function trailersOf (reply: FastifyReply): string[] {
  const trailers = internal(reply, 'fastify.reply.trailers') as Record<string, unknown> | null | undefined
  return Object.entries(trailers ?? {}).filter(([, value]) => value !== undefined).map(([name]) => name)
}

/** True when Fastify is about to send the value it passes to `send()` as an error, whatever that value is. */
export function isSendingError (reply: FastifyReply): boolean {
  return internal(reply, 'fastify.reply.isError') === true
}

/** Takes Fastify's handlerTimeout away, which would cut a stream that has its head. */
export function clearHandlerTimeout (reply: FastifyReply): void {
  clearTimeout(internal(reply.request, 'fastify.request.timeoutTimer') as NodeJS.Timeout | undefined)
}

// Fastify has no public word for these; test/stream/payload holds that they are there on every version that CI runs.
function internalKey (owner: FastifyReply | FastifyRequest, description: string): symbol | undefined {
  // Each copy of Fastify has its own.
  const prototype = Object.getPrototypeOf(owner) as object
  let keys = internalKeys.get(prototype)
  if (keys === undefined) internalKeys.set(prototype, keys = {})
  keys[description] ??= Object.getOwnPropertySymbols(owner).find(symbol => symbol.description === description)
  return keys[description]
}

const internalKeys = new WeakMap<object, Record<string, symbol | undefined>>()

function internal (owner: FastifyReply | FastifyRequest, description: string): unknown {
  const key = internalKey(owner, description)
  return key === undefined ? undefined : (owner as unknown as Record<symbol, unknown>)[key]
}

function sendWhileOwned (this: FastifyReply, ...args: unknown[]): FastifyReply {
  const [payload] = args
  const owner = ownerOf(this) as ReplyOwner
  // A handler that forgot to return the promise of its stream sends one `undefined`.
  const isForgotten = args.length === 1 && (payload === undefined || owner.gave(payload))
  if (payload instanceof FST_STREAM_ALREADY_STREAMING) {
    // The call threw; the stream that was first goes on.
    markError(this, false)
    this.log.warn({ err: payload }, 'a second stream on one reply is refused')
  } else if (payload instanceof Error || isSendingError(this)) {
    owner.handlerFailed(payload)
  } else if (!isForgotten) {
    this.log.warn({ err: new FST_STREAM_ALREADY_STREAMING() }, 'reply.send() is ignored on a reply that streams')
  }
  return this
}

// Fastify would send nothing, and only log the error of a handler that throws.
function hijackWhileOwned (this: FastifyReply): FastifyReply {
  return this
}

function noop (): void {}
