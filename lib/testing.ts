/**
 * Opens a stream of an app in a test, without a socket. What comes is parsed by an independent parser, never by the
 * encoder that it tests.
 */
import type { Readable } from 'node:stream'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import type { FastifyInstance, InjectOptions } from 'fastify'
import type { StreamOutcome } from './stream/lifecycle.ts'

export interface OpenStreamOptions {
  /** Default `GET`. */
  method?: InjectOptions['method']
  url: string
  headers?: Record<string, string>
  payload?: InjectOptions['payload']
}

/** A reply that is being read. Its body is read once, from the first byte, by whichever of the readers below asks. */
export interface OpenedStream {
  readonly statusCode: number
  readonly headers: Record<string, number | string | string[] | undefined>
  /** The events that nobody has taken yet, as a client would be given them; ends with the body, rejects when the body is cut. */
  readonly events: AsyncIterableIterator<EventSourceMessage>
  /** Resolves with the next event, or `undefined` when the body has ended. Rejects when the body is cut. */
  next (): Promise<EventSourceMessage | undefined>
  /** Resolves with the next `count` events. Rejects when the body ends before. */
  take (count: number): Promise<EventSourceMessage[]>
  /** Resolves with the whole body as text when it has ended. Rejects when the body is cut. */
  text (): Promise<string>
  /** Leaves: the server sees a client that has gone. Whoever is reading gets the end. */
  disconnect (): void
  /** The outcome on the server; settles when the response has closed, so a long body has to be read. Rejects when the reply was no stream. */
  readonly outcome: Promise<StreamOutcome>
}

// The plugin may be loaded as ESM and this file as CJS, or the other way round.
const kOutcome = Symbol.for('fastify-streaming.outcome')

/** Opens a stream of `app`, which need not listen. Resolves when the head is there, also with an error reply. */
export async function openStream (app: Pick<FastifyInstance, 'inject'>, { method = 'GET', url, headers, payload }: OpenStreamOptions): Promise<OpenedStream> {
  const client = new AbortController()
  const response = await app.inject({ method, url, headers, payload, payloadAsStream: true, signal: client.signal })
  const raw = response.raw.res as { [kOutcome]?: Promise<StreamOutcome> }
  const body = new Body(response.stream())
  return {
    statusCode: response.statusCode,
    headers: response.headers,
    get events () { return body.events() },
    next: () => body.next(),
    take: count => body.take(count),
    text: () => body.text(),
    disconnect: () => client.abort(),
    get outcome () { return raw[kOutcome] ?? noOutcome(`${method} ${url}`) }
  }
}

function noOutcome (request: string): Promise<never> {
  const rejected = Promise.reject(new Error(`The reply to ${request} was no stream: neither reply.sse() nor reply.streamWriter() was called`))
  // A test runner that prints this object looks at it, too.
  rejected.catch(() => {})
  return rejected
}

class Body {
  readonly #stream: Readable
  readonly #decoder = new TextDecoder()
  readonly #events: EventSourceMessage[] = []
  readonly #parser = createParser({ onEvent: event => { this.#events.push(event) } })
  #text = ''
  #asked: Promise<EventSourceMessage | undefined> = Promise.resolve(undefined)
  #reading: Promise<boolean> | undefined
  #wake = () => {}

  constructor (stream: Readable) {
    this.#stream = stream
    for (const event of ['readable', 'end', 'error', 'close']) stream.on(event, () => this.#wake())
  }

  // In the order of the calls, also when they do not wait for each other.
  next (): Promise<EventSourceMessage | undefined> {
    this.#asked = this.#asked.then(async () => await this.#next())
    return this.#asked
  }

  async take (count: number): Promise<EventSourceMessage[]> {
    const taken: EventSourceMessage[] = []
    while (taken.length < count) {
      const event = await this.next()
      if (event === undefined) throw new Error(`The body ended after ${taken.length} of ${count} events`)
      taken.push(event)
    }
    return taken
  }

  async text (): Promise<string> {
    while (await this.#readMore());
    return this.#text
  }

  async * events (): AsyncGenerator<EventSourceMessage> {
    for (;;) {
      const event = await this.next()
      if (event === undefined) return
      yield event
    }
  }

  async #next (): Promise<EventSourceMessage | undefined> {
    while (this.#events.length === 0) {
      if (!await this.#readMore()) return undefined
    }
    return this.#events.shift()
  }

  // Readers that ask at the same time share the answer.
  async #readMore (): Promise<boolean> {
    this.#reading ??= this.#read().finally(() => { this.#reading = undefined })
    return await this.#reading
  }

  // Not through the stream's own iterator: that one drops what has come when the body is cut, and tells the cut only once.
  async #read (): Promise<boolean> {
    const stream = this.#stream
    for (;;) {
      const chunk = stream.read() as Uint8Array | null
      if (chunk !== null) {
        this.#take(this.#decoder.decode(chunk, { stream: true }))
        return true
      }
      if (stream.readableEnded || stream.errored?.name === 'AbortError') {
        this.#take(this.#decoder.decode())
        return false
      }
      if (stream.errored !== null) throw stream.errored
      await new Promise<void>(resolve => { this.#wake = resolve })
    }
  }

  #take (text: string): void {
    this.#text += text
    this.#parser.feed(text)
  }
}
