/**
 * A broker over one Redis: lanes publish, pages are read by script, topics tell of what others have published.
 */
import { randomBytes } from 'node:crypto'
import { FST_STREAM_CLOSED } from '../../errors.ts'
import type { Broker, EventId, From, History, Page, PublishRequest, Stored, Tail } from '../broker.ts'
import { Calls } from './calls.ts'
import { linkOver, openLink, watch, type Link, type LinkListener } from './client.ts'
import { Lane, type Append, type LaneEvent } from './lane.ts'
import { resolveRedisOptions, type RedisBrokerOptions, type ResolvedRedisOptions } from './options.ts'
import { publishScript, readScript } from './scripts.ts'
import { Topics, type TopicsHost } from './topics.ts'

const words: From[] = ['live', 'earliest']
/** Milliseconds for which a call that a client sends once more, after its connection was lost, is known. */
const repeatTime = 600_000

export class RedisBroker implements Broker, TopicsHost {
  readonly publishTimeout: number
  readonly isLinkGiven: boolean
  readonly #options: ResolvedRedisOptions
  readonly #calls: Calls
  readonly #topics: Topics
  readonly #lanes = new Map<string, Lane>()
  /** Tells this process from all others. */
  readonly #writer = randomBytes(8).toString('hex')
  readonly #own: string
  #number = 0
  #isClosed = false
  readonly #unwatchSubscriber: (() => void) | undefined
  #closed: Promise<void> | undefined

  /** Times between probes of the connection that listens: milliseconds, at least and at most. */
  constructor (options: RedisBrokerOptions, probeTimes: [number, number] = [30_000, 45_000]) {
    this.#options = resolveRedisOptions(options)
    const { client, subscriber, prefix, publishTimeout } = this.#options
    this.publishTimeout = publishTimeout
    this.isLinkGiven = subscriber !== undefined
    this.#calls = new Calls(client, publishTimeout)
    this.#own = `${prefix}:own:${this.#writer}`
    this.#topics = new Topics(this, this.#own, probeTimes)
    if (subscriber !== undefined) this.#unwatchSubscriber = watch(subscriber, () => {})
  }

  async publish (channel: string, data: string, request: PublishRequest = {}): Promise<EventId> {
    this.#checkOpen(channel)
    let lane = this.#lanes.get(channel)
    if (lane === undefined) {
      const base = this.#baseOf(channel)
      const append: Append = async (number, events, history) => await this.#append(base, number, events, history)
      this.#lanes.set(channel, lane = new Lane(append, () => ++this.#number, this.publishTimeout, () => { this.#lanes.delete(channel) }))
    }
    return await lane.publish(data, request)
  }

  async read (channel: string, from: From, limit: number): Promise<Page> {
    this.#checkOpen(channel)
    const isForeign = typeof from === 'string' && !words.includes(from) && !this.valid(from)
    const [contiguous, base, head, ...rest] = await this.#read(this.#baseOf(channel), isForeign ? 'earliest' : from, limit)
    this.#checkOpen(channel)
    if (from === 'live') this.#topics.began(this.#baseOf(channel), head)
    const events: Stored[] = []
    for (let i = 0; i < rest.length; i += 3) events.push({ id: rest[i] as EventId, previous: rest[i + 1] as EventId, data: rest[i + 2] as string })
    return { contiguous: contiguous === '1' && !isForeign, base, events, head }
  }

  async tail (channel: string, tail: Tail): Promise<() => Promise<void>> {
    this.#checkOpen(channel)
    const untail = await this.#topics.tail(this.#baseOf(channel), tail)
    this.#checkOpen(channel)
    return untail
  }

  compare (a: EventId, b: EventId): number {
    if (a === b) return 0
    const [ms, number, suffix] = a.split('-') as [string, string, string]
    const [otherMs, otherNumber, otherSuffix] = b.split('-') as [string, string, string]
    return Number(ms) - Number(otherMs) || Number(number) - Number(otherNumber) || (suffix < otherSuffix ? -1 : 1)
  }

  valid (id: string): boolean {
    return /^\d{1,15}-\d{1,10}-[0-9a-z]{17,26}$/.test(id)
  }

  /** Resolves once Redis has answered. Rejects with FST_STREAM_BROKER_UNAVAILABLE. */
  async ready (): Promise<void> {
    this.#checkOpen('')
    await this.#calls.announce(this.#own, '0')
  }

  /** Waits for what is being published, and closes the connection that listens. Not the client. */
  async close (): Promise<void> {
    this.#closed ??= this.#close()
    await this.#closed
  }

  async #close (): Promise<void> {
    this.#isClosed = true
    this.#topics.close()
    await Promise.all([...this.#lanes.values()].map(async lane => await lane.settled))
    this.#calls.close()
    this.#unwatchSubscriber?.()
  }

  link (listener: LinkListener): Link {
    const { client, subscriber } = this.#options
    return subscriber === undefined ? openLink(client, listener) : linkOver(subscriber, listener)
  }

  async head (topic: string): Promise<EventId> {
    return (await this.#read(topic, 'live', 1))[2]
  }

  async announce (topic: string, text: string): Promise<void> {
    await this.#calls.announce(topic, text)
  }

  async #append (base: string, number: number, events: LaneEvent[], history: History | undefined): Promise<EventId[]> {
    const { retention } = this.#options
    const keys = [`${base}:s`, `${base}:m`, `${base}:w:${this.#writer}`]
    const args = [
      number, this.#suffix(number), base, retention, repeatTime,
      ...history === undefined ? ['', '', ''] : [history.events, history.bytes, Math.ceil(history.age)]
    ].map(String)
    for (const { data, dedupe } of events) {
      if (dedupe !== undefined) keys.push(`${base}:k:${dedupe}`)
      args.push(dedupe === undefined ? '0' : String(keys.length - 3), String(data.length), data)
    }
    return String(await this.#calls.run(publishScript, keys, args)).split(' ')
  }

  async #read (base: string, from: From, limit: number): Promise<[contiguous: string, base: EventId, head: EventId, ...events: string[]]> {
    const { retention, pageSize } = this.#options
    const [kind, value] = typeof from === 'number' ? ['newest', from] : words.includes(from) ? [from, ''] : ['after', from]
    const args = [this.#suffix(++this.#number), retention, kind, value, Math.min(limit, pageSize)].map(String)
    const reply = await this.#calls.run(readScript, [`${base}:s`, `${base}:m`], args) as unknown[]
    // A client may be set to give buffers.
    return reply.map(String) as [string, EventId, EventId, ...string[]]
  }

  /** Of the ids that a call gives: a stream that was deleted gives the same numbers again. */
  #suffix (number: number): string {
    return `${this.#writer}${number.toString(36)}`
  }

  /** What the keys of a channel begin with, and what it is announced on. In a cluster, all of them are in one place. */
  #baseOf (channel: string): string {
    return `{${this.#options.prefix}:${encodeURIComponent(channel)}}`
  }

  #checkOpen (channel: string): void {
    if (this.#isClosed) throw new FST_STREAM_CLOSED(channel)
  }
}
