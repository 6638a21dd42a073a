/**
 * A channel: what is published to it reaches all who subscribe, and those who come back get what they have missed.
 */
import type { Broker, History } from '../brokers/broker.ts'
import { defaultHistory } from '../brokers/broker.ts'
import { FST_STREAM_CLOSED, FST_STREAM_INVALID_OPTION } from '../errors.ts'
import {
  pickRetry, resolveChannelOptions, resolveCloseOptions, resolvePublishOptions, resolveSubscribeOptions,
  type ChannelOptions, type CloseOptions, type PublishOptions, type SubscribeOptions
} from '../options.ts'
import type { EventItem, Serialize, TypedEvents } from '../stream/encode.ts'
import { Cursor, type Subscriber } from './cursor.ts'
import { Feed, type FeedHost } from './feed.ts'
import { encodeStored, ownNames, type ChannelEvent, type Gap } from './frame.ts'
import { ChannelIterator } from './iterator.ts'
import { formatPosition, tagOf } from './position.ts'

/** One event to many. Made by `app.streaming.channel(name)`. `Events` has the type of the data of each event name. */
export interface Channel<Events extends object = Record<string, unknown>> {
  readonly name: string
  /** Subscribers in this process. */
  readonly size: number
  /**
   * Publishes what `stream.send` takes, but for `id` and the event names `gap` and `position`. Resolves with the event's
   * id once the log has it. Events are logged in the order of the calls, awaited or not.
   * Rejects with FST_STREAM_INVALID_EVENT, FST_STREAM_UNKNOWN_EVENT, FST_STREAM_INVALID_FIELD, FST_STREAM_INVALID_OPTION,
   * FST_STREAM_CLOSED and FST_STREAM_BROKER_UNAVAILABLE, which is also logged at warn and needs no handler.
   */
  publish (event: PublishedEvent<Events>, options?: PublishOptions): Promise<string>
  /**
   * What is published from the call on; first the position that this is. Falls back by a cursor, not by a queue: see `lag`.
   * Ends with `return()`, `signal` or the channel. Throws FST_STREAM_INVALID_OPTION and FST_STREAM_CLOSED at the call.
   */
  subscribe (options?: SubscribeOptions<Events>): AsyncIterableIterator<ChannelItem<Events>>
  /** Ends its streams (`closed`) and iterators in this process. What is in the history stays, and the name may be opened anew. */
  close (options?: CloseOptions): void
}

/** A channel that names its events: made with `events`, and what a route with `schema.events` reads. */
export interface TypedChannel<Events extends object, Schemas extends object = Readonly<Record<string, unknown>>> extends Channel<Events> {
  /** The schema of the data of each event. */
  readonly events: Schemas
}

/** What a channel takes: any event, or those of `Events` when it names them. */
export type PublishedEvent<Events extends object = Record<string, unknown>> = WithoutId<EventItem<Events>>

type WithoutId<Item> = Item extends object ? Omit<Item, 'id'> : Item

/** What an iterator of a channel gives. */
export type ChannelItem<Events extends object = Record<string, unknown>> =
  | ChannelEvent<Events>
  | { type: 'gap', id: string } & Gap
  | { type: 'position', id: string }

/** What a channel needs of whom it belongs to. */
export interface ChannelHost {
  readonly broker: Broker
  readonly serialize: Serialize
  /** The channel has something to keep, or nothing any more. */
  setActive (channel: EventChannel, isActive: boolean): void
  closed (channel: EventChannel): void
  /** Counts a gap that a subscriber is told of. */
  countGap (): void
  publishFailed (error: unknown): void
  /** A channel that has subscribers gets no answer of the broker. */
  brokerAway (error: unknown): void
  /** It gets them again, or does not ask for them any more. */
  brokerBack (isAnswering: boolean): void
}

/** Compiles the events of the channel of a name. Throws FST_STREAM_INVALID_SCHEMA and FST_STREAM_INVALID_OPTION. */
export type CompileEvents = (name: string, options: ChannelOptions) => TypedEvents

// Milliseconds for which a feed outlives its last subscriber, who may be reconnecting.
const lingerTime = 30_000

export class EventChannel implements Channel, FeedHost {
  readonly name: string
  readonly #tag: string
  readonly #host: ChannelHost
  readonly #history: History
  readonly #typed: TypedEvents | undefined
  /** Of the context that has named the channel first. */
  readonly #compile: CompileEvents
  #feed: Feed | undefined
  #lingering: NodeJS.Timeout | undefined
  #activity: NodeJS.Timeout | undefined
  #isClosed = false
  /** When it was published to last, by `performance.now()`. */
  #lastPublish = -Infinity

  /** `past` is the channel of that name that was closed, if its history may still have something of it. */
  constructor (host: ChannelHost, name: string, options: ChannelOptions | undefined, compile: CompileEvents, past?: { typed: TypedEvents | undefined }) {
    this.name = name
    this.#tag = tagOf(name)
    this.#host = host
    const { history, events, validate } = resolveChannelOptions(options)
    this.#history = { ...defaultHistory, ...history }
    const own = ownNames.find(name => events !== undefined && Object.hasOwn(events, name))
    if (own !== undefined) throw new FST_STREAM_INVALID_OPTION('events', 'without gap and position: those are of the channel itself', own)
    this.#compile = compile
    this.#typed = events && compile(name, { events, validate })
    if (this.#typed !== undefined && past !== undefined && !areSame(this.#typed, past.typed)) {
      throw new FST_STREAM_INVALID_OPTION('events', `those that the channel '${name}' had before it was closed, as long as its history has them`, [...this.#typed.codecs.keys()].join(', '))
    }
    this.#touch()
  }

  get size (): number {
    return this.#feed?.subscribers ?? 0
  }

  /** Frames at hand, and their bytes. */
  get kept (): { frames: number, bytes: number } {
    return { frames: this.#feed?.frames ?? 0, bytes: this.#feed?.bytes ?? 0 }
  }

  /** Throws FST_STREAM_INVALID_OPTION for options that are not those it has, and FST_STREAM_INVALID_SCHEMA. */
  checkOptions (options: ChannelOptions | undefined, compile: CompileEvents): void {
    const { history, events, validate } = resolveChannelOptions(options)
    for (const [name, value] of Object.entries(history) as Array<[keyof History, number]>) {
      if (value !== this.#history[name]) {
        throw new FST_STREAM_INVALID_OPTION(`history.${name}`, `${this.#history[name]}, as the channel '${this.name}' has it already`, String(value))
      }
    }
    if (events !== undefined && !this.#hasEvents(events, compile)) {
      throw new FST_STREAM_INVALID_OPTION('events', `the schemas that the channel '${this.name}' has already, compiled as they were, or none if it has none`, Object.keys(events).join(', '))
    }
    const isValidating = this.#typed?.isValidating
    if (validate !== undefined && validate !== isValidating) {
      throw new FST_STREAM_INVALID_OPTION('validate', `${String(isValidating)}, as the channel '${this.name}' has it already`, String(validate))
    }
  }

  get events (): TypedEvents['schemas'] | undefined {
    return this.#typed?.schemas
  }

  /** Milliseconds for which the history may have what was published here. */
  get leaves (): number {
    return Math.max(0, this.#lastPublish + this.#history.age - performance.now())
  }

  /** Of the events that may be published; undefined when that is any. */
  get typed (): TypedEvents | undefined {
    return this.#typed
  }

  publish (event: EventItem, options?: PublishOptions): Promise<string> {
    const published = this.#publish(event, options)
    // What is published without await must not be able to kill the process.
    published.catch((error: unknown) => { this.#host.publishFailed(error) })
    return published
  }

  subscribe (options?: SubscribeOptions): AsyncIterableIterator<ChannelItem> {
    return new ChannelIterator(this, resolveSubscribeOptions(options))
  }

  close (options?: CloseOptions): void {
    const { retry } = resolveCloseOptions(options)
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#activity)
    this.#closeFeed(retry === undefined ? undefined : () => pickRetry(retry))
    this.#host.closed(this)
  }

  /** Begins to follow the channel from now. Throws FST_STREAM_CLOSED. */
  follow (subscriber: Subscriber): Cursor {
    this.checkOpen()
    clearTimeout(this.#lingering)
    clearTimeout(this.#activity)
    this.#host.setActive(this, true)
    this.#feed ??= new Feed(this.#host.broker, this.name, this.#tag, this.#history, this)
    return new Cursor(this.#feed, this.name, subscriber)
  }

  emptied (feed: Feed): void {
    if (this.#feed !== feed) return
    this.#touch()
    this.#lingering = setTimeout(() => { this.#closeFeed() }, lingerTime)
    this.#lingering.unref()
  }

  away (error: unknown): void {
    this.#host.brokerAway(error)
  }

  back (isAnswering: boolean): void {
    this.#host.brokerBack(isAnswering)
  }

  ended (): void {
    this.#closeFeed()
  }

  countGap (): void {
    this.#host.countGap()
  }

  checkOpen (): void {
    if (this.#isClosed) throw new FST_STREAM_CLOSED(this.name)
  }

  get tag (): string {
    return this.#tag
  }

  async #publish (event: EventItem, options: PublishOptions | undefined): Promise<string> {
    const { key, idempotencyKey } = resolvePublishOptions(options)
    const data = encodeStored(event, key, this.#host.serialize, this.#typed)
    this.checkOpen()
    this.#touch()
    this.#lastPublish = performance.now()
    const request = { dedupe: idempotencyKey, history: this.#history, since: performance.now() }
    const append = async () => await this.#host.broker.publish(this.name, data, request)
    return formatPosition(await this.#inOrder(append), this.#tag)
  }

  #hasEvents (events: TypedEvents['schemas'], compile: CompileEvents): boolean {
    return this.#typed !== undefined && ((events === this.events && compile === this.#compile) || areSame(compile(this.name, { events }), this.#typed))
  }

  /** Those who have subscribed before are to get it. */
  async #inOrder (append: () => Promise<string>): Promise<string> {
    const feed = this.#feed
    if (feed === undefined) return await append()
    return await new Promise((resolve, reject) => {
      feed.whenOpen(() => { append().then(resolve, reject) })
    })
  }

  /** It counts as active for as long as its history. */
  #touch (): void {
    this.#host.setActive(this, true)
    if (this.size > 0) return
    clearTimeout(this.#activity)
    this.#activity = setTimeout(() => { this.#host.setActive(this, false) }, this.#history.age)
    this.#activity.unref()
  }

  #closeFeed (retry?: () => number): void {
    clearTimeout(this.#lingering)
    const feed = this.#feed
    this.#feed = undefined
    feed?.close(retry)
  }
}

function areSame (some: TypedEvents, others: TypedEvents | undefined): boolean {
  return some.codecs.size === others?.codecs.size && [...some.codecs].every(([name, codec]) => codec.isSameAs(others.codecs.get(name)))
}
