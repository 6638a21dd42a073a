/**
 * What this process listens to, over one connection. Whatever happens to that connection, tails are told that they may
 * have missed something; and because a connection may die without a word, it is tried now and then.
 */
import { FST_STREAM_BROKER_UNAVAILABLE, withCause } from '../../errors.ts'
import type { EventId, Stored, Tail } from '../broker.ts'
import type { Link, LinkListener } from './client.ts'

export interface TopicsHost {
  /** Opens the connection, or takes the one that was given. */
  link (listener: LinkListener): Link
  /** The head of the log of a topic; also keeps it from being forgotten. */
  head (topic: string): Promise<EventId>
  /** Sends something through the server to this process. */
  announce (topic: string, text: string): Promise<void>
  /** The link was given, and cannot be replaced. */
  readonly isLinkGiven: boolean
  /** Milliseconds for an answer. */
  readonly publishTimeout: number
}

class Topic {
  readonly tails = new Set<Tail>()
  /** Who waits until the server has confirmed the subscription. */
  readonly waiting = new Set<{ resolve: () => void, reject: (error: unknown) => void }>()
  isSubscribed = false
  /** The newest id that the tails know of, by being told of it or by having been told to read again. */
  head: EventId | undefined
  /** Nothing has come since it was last looked at. */
  isQuiet = false
}

// Milliseconds that a tail waits for the confirmation: what comes later is told as a disturbance.
const longestWait = 1000
const retryTime = 1000
const namesAtOnce = 1000
/** Heads that are asked for at a time. */
const headsAtOnce = 50

export class Topics implements LinkListener {
  readonly #host: TopicsHost
  readonly #own: string
  readonly #probeTimes: [number, number]
  readonly #topics = new Map<string, Topic>()
  #link: Link | undefined
  #isUp = false
  /** Counts how often the connection has come up: what was asked of an earlier one is void. */
  #life = 0
  #isSyncing = false
  /** What the server is not to tell any more. */
  readonly #extra = new Set<string>()
  readonly #missing = new Set<string>()
  #probing: NodeJS.Timeout | undefined
  #retrying: NodeJS.Timeout | undefined
  #probes = 0
  #heard: (() => void) | undefined

  /** `own` is a topic of this process alone; probes come at random between the two times, in milliseconds. */
  constructor (host: TopicsHost, own: string, probeTimes: [number, number]) {
    this.#host = host
    this.#own = own
    this.#probeTimes = probeTimes
  }

  async tail (name: string, tail: Tail): Promise<() => Promise<void>> {
    let topic = this.#topics.get(name)
    if (topic === undefined) {
      this.#topics.set(name, topic = new Topic())
      this.#extra.delete(name)
      this.#missing.add(name)
    }
    if (topic.isSubscribed) topic.tails.add(tail)
    else await this.#subscribed(name, topic, tail)
    return async () => {
      topic.tails.delete(tail)
      this.#leaveEmpty(name, topic)
    }
  }

  /** What a tail has been told as the head when it began. */
  began (name: string, head: EventId): void {
    const topic = this.#topics.get(name)
    if (topic !== undefined) topic.head ??= head
  }

  up (): void {
    // A given one may say so when it has been left already.
    if (this.#link === undefined) return
    this.#isUp = true
    this.#probeLater()
    this.#subscribeAll()
  }

  message (name: string, text: string): void {
    if (name === this.#own) {
      if (Number(text) === this.#probes) this.#heard?.()
      return
    }
    const topic = this.#topics.get(name)
    if (topic === undefined) return
    topic.isQuiet = false
    const events = parseMessage(text)
    if (events === undefined) return disrupt(topic)
    topic.head = events.at(-1)?.id
    for (const event of events) for (const tail of topic.tails) tail.event(event)
  }

  /** Tells every tail that it is over. */
  close (): void {
    const topics = [...this.#topics.values()]
    this.#closeLink()
    this.#topics.clear()
    for (const { tails, waiting } of topics) {
      for (const { resolve } of waiting) resolve()
      for (const tail of tails) tail.closed()
    }
  }

  /** What an earlier connection was asked is void. */
  #subscribeAll (): void {
    this.#life++
    this.#isSyncing = false
    this.#missing.add(this.#own)
    for (const [name, topic] of this.#topics) {
      topic.isSubscribed = false
      this.#missing.add(name)
    }
    void this.#sync()
  }

  #subscribed (name: string, topic: Topic, tail: Tail): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (action: () => void) => {
        clearTimeout(timer)
        topic.waiting.delete(waiter)
        action()
      }
      const waiter = {
        resolve: () => {
          topic.tails.add(tail)
          settle(resolve)
        },
        reject: (error: unknown) => {
          settle(() => { reject(error) })
          this.#leaveEmpty(name, topic)
        }
      }
      const timer = setTimeout(waiter.resolve, longestWait)
      topic.waiting.add(waiter)
      if (this.#link === undefined) this.#openLink()
      else void this.#sync()
    })
  }

  #leaveEmpty (name: string, topic: Topic): void {
    if (topic.tails.size > 0 || topic.waiting.size > 0 || this.#topics.get(name) !== topic) return
    this.#topics.delete(name)
    this.#missing.delete(name)
    this.#extra.add(name)
    if (this.#topics.size === 0) this.#closeLink()
    else void this.#sync()
  }

  #openLink (): void {
    this.#link = this.#host.link(this)
  }

  #closeLink (): void {
    clearTimeout(this.#probing)
    clearTimeout(this.#retrying)
    const link = this.#link
    if (this.#isUp && this.#host.isLinkGiven) {
      for (const names of inParts([...this.#topics.keys(), ...this.#extra, this.#own])) link?.unsubscribe(names).catch(() => {})
    }
    this.#isUp = false
    this.#life++
    this.#link = undefined
    this.#missing.clear()
    this.#extra.clear()
    link?.close()
  }

  /** Makes what the server tells equal to what is listened to, one step at a time. */
  async #sync (): Promise<void> {
    if (this.#isSyncing || !this.#isUp) return
    this.#isSyncing = true
    const life = this.#life
    const link = this.#link as Link
    try {
      while (this.#extra.size > 0 || this.#missing.size > 0) {
        for (const names of inParts([...this.#extra])) {
          await link.unsubscribe(names)
          if (life !== this.#life) return
          for (const name of names) this.#extra.delete(name)
        }
        for (const names of inParts([...this.#missing])) {
          await link.subscribe(names)
          if (life !== this.#life) return
          for (const name of names) this.#confirmed(name)
        }
      }
    } catch (error) {
      if (life !== this.#life) return
      this.#refused(error)
    }
    this.#isSyncing = false
  }

  #confirmed (name: string): void {
    this.#missing.delete(name)
    const topic = this.#topics.get(name)
    if (topic === undefined) return
    topic.isSubscribed = true
    disrupt(topic)
    for (const { resolve } of topic.waiting) resolve()
  }

  /** All over again, a little later; until then, whoever follows has to ask. */
  #refused (error: unknown): void {
    const refusal = withCause(new FST_STREAM_BROKER_UNAVAILABLE((error as Error).message), error)
    clearTimeout(this.#retrying)
    this.#retrying = setTimeout(() => { this.#subscribeAll() }, retryTime).unref()
    for (const topic of [...this.#topics.values()]) {
      disrupt(topic)
      for (const { reject } of topic.waiting) reject(refusal)
    }
  }

  #probeLater (): void {
    const [min, max] = this.#probeTimes
    clearTimeout(this.#probing)
    this.#probing = setTimeout(() => {
      const life = this.#life
      void this.#probe().catch(() => {}).then(() => { if (this.#life === life) this.#probeLater() })
    }, min + Math.random() * (max - min)).unref()
  }

  async #probe (): Promise<void> {
    const { isLinkGiven } = this.#host
    const life = this.#life
    const isHeard = await this.#isHeard()
    // It was lost meanwhile, and everybody is told.
    if (this.#life !== life) return
    if (!isHeard) {
      if (isLinkGiven) {
        for (const topic of this.#topics.values()) disrupt(topic)
      } else {
        this.#closeLink()
        this.#openLink()
      }
      return
    }
    const quiet = [...this.#topics].filter(([, { isQuiet }]) => isQuiet)
    for (const topic of this.#topics.values()) topic.isQuiet = true
    for (let i = 0; i < quiet.length; i += headsAtOnce) {
      await Promise.all(quiet.slice(i, i + headsAtOnce).map(async ([name, topic]) => { await this.#compareHead(name, topic) }))
    }
  }

  /** False when what the server was told for this process has not come; throws when the server could not be told. */
  async #isHeard (): Promise<boolean> {
    const heard = new Promise<boolean>(resolve => { this.#heard = () => { resolve(true) } })
    await this.#host.announce(this.#own, String(++this.#probes))
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<boolean>(resolve => { timer = setTimeout(resolve, this.#host.publishTimeout, false).unref() })
    return await Promise.race([heard, late]).finally(() => { clearTimeout(timer) })
  }

  async #compareHead (name: string, topic: Topic): Promise<void> {
    const head = await this.#host.head(name)
    if (!topic.isQuiet || head === topic.head) return
    topic.head = head
    disrupt(topic)
  }
}

/** No command may have any number of arguments. */
function inParts (names: string[]): string[][] {
  return Array.from({ length: Math.ceil(names.length / namesAtOnce) }, (_, i) => names.slice(i * namesAtOnce, (i + 1) * namesAtOnce))
}

function disrupt ({ tails }: Topic): void {
  for (const tail of tails) tail.disrupted()
}

/** The events of one announcement: `id previous length`, a line break and as many UTF-16 code units of data, for each; undefined for anything else. */
function parseMessage (text: string): Stored[] | undefined {
  const events = []
  const header = /([^ \n]+) ([^ \n]+) (\d+)\n/y
  let place = 0
  do {
    header.lastIndex = place
    const [line = '', id = '', previous = '', length = ''] = header.exec(text) ?? []
    if (line === '') return undefined
    const start = place + line.length
    place = start + Number(length)
    if (place > text.length) return undefined
    events.push({ id, previous, data: text.slice(start, place) })
  } while (place < text.length)
  return events
}
