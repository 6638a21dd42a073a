/**
 * Channels of one process, kept in its memory: the default broker, and the readable reference of the contract.
 */
import { randomBytes } from 'node:crypto'
import { FST_STREAM_CLOSED } from '../errors.ts'
import { defaultHistory, type Broker, type EventId, type From, type History, type Page, type PublishRequest, type Stored, type Tail } from './broker.ts'
import { Retained } from './retained.ts'

/** Makes a broker for one process. What it keeps is gone when the process ends, and clients that come back are told. */
export function memoryBroker (): Broker {
  return new MemoryBroker()
}

interface Kept {
  event: Stored
  dedupe: string | undefined
}

class Log {
  head: EventId
  history = defaultHistory
  readonly kept = new Retained<Kept>()
  readonly tails = new Set<Tail>()
  /** Events by their `dedupe`. */
  readonly known = new Map<string, Stored>()
  usedAt = performance.now()
  timer: NodeJS.Timeout | undefined

  constructor (birth: EventId) {
    this.head = birth
  }

  trim (): void {
    while (this.kept.isOver(this.history)) {
      const { dedupe } = this.kept.shift()
      if (dedupe !== undefined) this.known.delete(dedupe)
    }
  }

  /** The number of the first retained event after a position. */
  numberAfter (from: Exclude<From, 'live'>, broker: Broker): number {
    const { first, end } = this.kept
    if (from === 'earliest' || (typeof from === 'string' && !broker.valid(from))) return first
    if (typeof from === 'number') return Math.max(first, end - from)
    let low = first
    let high = end
    while (low < high) {
      const middle = (low + high) >>> 1
      if (broker.compare(this.kept.at(middle).event.id, from) > 0) high = middle
      else low = middle + 1
    }
    return low
  }
}

class MemoryBroker implements Broker {
  readonly #logs = new Map<string, Log>()
  // A clock would step back one day; a number that is new in each process tells its ids from those of all others.
  readonly #nonce = randomBytes(6).toString('hex')
  #count = 0
  #isClosed = false

  async publish (channel: string, data: string, { dedupe, history }: PublishRequest = {}): Promise<EventId> {
    const log = this.#log(channel)
    const known = dedupe === undefined ? undefined : log.known.get(dedupe)
    if (known !== undefined) return known.id
    const event = { id: this.#nextId(), previous: log.head, data }
    log.head = event.id
    log.usedAt = performance.now()
    if (history !== undefined) this.#setHistory(log, history)
    log.kept.push({ event, dedupe }, Buffer.byteLength(data))
    if (dedupe !== undefined) log.known.set(dedupe, event)
    for (const tail of log.tails) tail.event(event)
    log.trim()
    this.#expireLater(channel, log)
    return event.id
  }

  async read (channel: string, from: From, limit: number): Promise<Page> {
    const log = this.#log(channel)
    const { head, kept } = log
    if (from === 'live') return { contiguous: true, base: head, events: [], head }
    const start = log.numberAfter(from, this)
    const events = []
    for (let i = start; i < Math.min(start + limit, kept.end); i++) events.push(kept.at(i).event)
    const base = events[0]?.previous ?? head
    return { contiguous: from === 'earliest' || typeof from === 'number' || from === base, base, events, head }
  }

  async tail (channel: string, tail: Tail): Promise<() => Promise<void>> {
    const log = this.#log(channel)
    log.tails.add(tail)
    return async () => {
      log.tails.delete(tail)
      log.usedAt = performance.now()
      this.#expireLater(channel, log)
    }
  }

  compare (a: EventId, b: EventId): number {
    return Number.parseInt(a, 36) - Number.parseInt(b, 36)
  }

  valid (id: string): boolean {
    return /^[0-9a-z]{1,11}-[0-9a-f]{12}$/.test(id) && id.endsWith(this.#nonce)
  }

  async ready (): Promise<void> {}

  async close (): Promise<void> {
    this.#isClosed = true
    const logs = [...this.#logs.values()]
    this.#logs.clear()
    for (const { timer, tails } of logs) {
      clearTimeout(timer)
      for (const tail of tails) tail.closed()
    }
  }

  #nextId (): EventId {
    return `${(++this.#count).toString(36)}-${this.#nonce}`
  }

  #log (channel: string): Log {
    if (this.#isClosed) throw new FST_STREAM_CLOSED(channel)
    let log = this.#logs.get(channel)
    if (log === undefined) {
      this.#logs.set(channel, log = new Log(this.#nextId()))
      this.#expireLater(channel, log)
    }
    log.trim()
    return log
  }

  #setHistory (log: Log, history: History): void {
    if (history.age !== log.history.age) {
      clearTimeout(log.timer)
      log.timer = undefined
    }
    log.history = history
  }

  // One that nobody follows is forgotten a while after its last event: until then, who has seen that misses nothing.
  #expireLater (channel: string, log: Log): void {
    if (log.timer !== undefined || this.#isClosed) return
    const { kept, history: { age } } = log
    const delay = Math.ceil((kept.length > 0 ? kept.oldestAt + age : log.usedAt + 2 * age) - performance.now())
    log.timer = setTimeout(() => {
      log.timer = undefined
      log.trim()
      const isIdle = kept.length === 0 && performance.now() - log.usedAt >= 2 * log.history.age
      if (!isIdle) this.#expireLater(channel, log)
      else if (log.tails.size === 0) this.#logs.delete(channel)
    }, Math.min(age, Math.max(1, delay)))
    log.timer.unref()
  }
}
