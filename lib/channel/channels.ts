/**
 * The channels of one registration, by their names.
 */
import type { Broker } from '../brokers/broker.ts'
import { memoryBroker } from '../brokers/memory.ts'
import { FST_STREAM_CLOSED, FST_STREAM_INVALID_OPTION } from '../errors.ts'
import { checkChannelName, resolveCreateChannelsOptions, type ChannelOptions } from '../options.ts'
import type { Serialize, TypedEvents } from '../stream/encode.ts'
import { EventChannel, type Channel, type ChannelHost, type CompileEvents } from './channel.ts'

/** Counts of channels, in this process. */
export interface ChannelStats {
  /** Channels that have subscribers, or were used within the age of their history. */
  channels: number
  /** Subscribers of all channels: streams and iterators, each as often as it has channels. */
  subscribers: number
  /** Gaps that subscribers were told of. */
  gaps: number
  /** Events at hand for subscribers that are a little behind; what can be replayed is kept by the broker. */
  frames: number
  /** Bytes of them. */
  frameBytes: number
}

/** Where channels tell of trouble: `app.log`, or any logger that takes what it does. */
export interface ChannelLog {
  info (message: string): void
  warn (details: object, message: string): void
}

/** Options of `createChannels()`. */
export interface CreateChannelsOptions {
  /** Carries and keeps the events. It is not closed with the channels. */
  broker: Broker
  /** Encodes data that is neither a string nor bytes. Default `JSON.stringify`. */
  serialize?: Serialize
  /** Is told of publishes that failed, and of a broker that does not answer. Default `console`. */
  logger?: ChannelLog
}

/** Channels without an app. */
export interface StandaloneChannels {
  /** As `app.streaming.channel()`: the same name gives the same channel. Throws FST_STREAM_INVALID_OPTION and FST_STREAM_CLOSED. */
  channel<Events extends object = Record<string, unknown>> (name: string, options?: ChannelOptions): Channel<Events>
  stats (): ChannelStats
  /** Ends iterators; `publish` rejects with FST_STREAM_CLOSED from then on. The broker stays open. */
  close (): Promise<void>
}

/**
 * Channels for what is no Fastify app: workers and scripts that publish, or read with `subscribe()`.
 * Throws FST_STREAM_INVALID_OPTION.
 */
export function createChannels (options: CreateChannelsOptions): StandaloneChannels {
  const { broker, serialize, logger = console } = resolveCreateChannelsOptions(options)
  const channels = new Channels(broker, serialize, logger)
  return {
    channel: (name: string, options?: ChannelOptions) => channels.channel(name, options) as never,
    stats: () => channels.stats(),
    close: async () => { await channels.close() }
  }
}

export class Channels implements ChannelHost {
  readonly broker: Broker
  readonly serialize: Serialize
  readonly #log: ChannelLog | undefined
  readonly #ownBroker: Broker | undefined
  /** A channel that nobody holds, and that keeps nothing, is forgotten. */
  readonly #named = new Map<string, WeakRef<EventChannel>>()
  readonly #forgotten = new FinalizationRegistry<string>(name => {
    if (this.#named.get(name)?.deref() === undefined) this.#named.delete(name)
  })

  /** Those that are kept whether anybody holds them or not. */
  readonly #lasting = new Set<EventChannel>()
  /** Of channels that were closed, the events that they have left in the history. */
  readonly #past = new Map<string, { typed: TypedEvents | undefined, timer: NodeJS.Timeout }>()
  readonly #active = new Set<EventChannel>()
  #gaps = 0
  /** Channels that get no answer of the broker. */
  #away = 0
  /** One of those that got none has got one since. */
  #isAnswering = false
  #isClosed = false

  constructor (broker: Broker | undefined, serialize: Serialize = JSON.stringify, log?: ChannelLog) {
    if (broker === undefined) this.#ownBroker = memoryBroker()
    this.broker = broker ?? this.#ownBroker as Broker
    this.serialize = serialize
    this.#log = log
  }

  /**
   * `compile` compiles the events of a channel that is new, which is kept until it is closed if it `isLasting` and has
   * options. Throws FST_STREAM_INVALID_OPTION, also for options that contradict those that the channel has,
   * FST_STREAM_INVALID_SCHEMA and FST_STREAM_CLOSED.
   */
  channel (name: string, options?: ChannelOptions, compile: CompileEvents = refuseEvents, isLasting = false): EventChannel {
    checkChannelName(name)
    const known = this.#named.get(name)?.deref()
    if (known !== undefined) {
      known.checkOptions(options, compile)
      return known
    }
    if (this.#isClosed) throw new FST_STREAM_CLOSED(name)
    const channel = new EventChannel(this, name, options, compile, this.#past.get(name))
    this.#named.set(name, new WeakRef(channel))
    this.#forgotten.register(channel, name)
    if (isLasting && options !== undefined) this.#lasting.add(channel)
    return channel
  }

  stats (): ChannelStats {
    const stats: ChannelStats = { channels: this.#active.size, subscribers: 0, gaps: this.#gaps, frames: 0, frameBytes: 0 }
    for (const channel of this.#active) {
      const { frames, bytes } = channel.kept
      stats.subscribers += channel.size
      stats.frames += frames
      stats.frameBytes += bytes
    }
    return stats
  }

  async close (): Promise<void> {
    this.#isClosed = true
    for (const { timer } of this.#past.values()) clearTimeout(timer)
    this.#past.clear()
    for (const channel of [...this.#named.values()]) channel.deref()?.close()
    await this.#ownBroker?.close()
  }

  setActive (channel: EventChannel, isActive: boolean): void {
    if (isActive) this.#active.add(channel)
    else this.#active.delete(channel)
  }

  closed (channel: EventChannel): void {
    this.#active.delete(channel)
    this.#lasting.delete(channel)
    this.#named.delete(channel.name)
    if (!this.#isClosed && channel.leaves > 0) this.#remember(channel)
  }

  countGap (): void {
    this.#gaps++
  }

  publishFailed (error: unknown): void {
    this.#log?.warn({ err: error }, 'publish failed')
  }

  brokerAway (error: unknown): void {
    if (this.#away++ > 0) return
    this.#isAnswering = false
    this.#log?.warn({ err: error }, 'the broker gives no answer: subscribers wait')
  }

  brokerBack (isAnswering: boolean): void {
    this.#isAnswering ||= isAnswering
    if (--this.#away === 0 && this.#isAnswering) this.#log?.info('the broker answers again')
  }

  #remember ({ name, typed, leaves }: EventChannel): void {
    clearTimeout(this.#past.get(name)?.timer)
    const timer = setTimeout(() => { this.#past.delete(name) }, leaves)
    timer.unref()
    this.#past.set(name, { typed, timer })
  }
}

function refuseEvents (name: string, { events }: ChannelOptions): never {
  throw new FST_STREAM_INVALID_OPTION('events', 'absent: without an app there is nothing to compile schemas with', Object.keys(events as object).join(', '))
}
