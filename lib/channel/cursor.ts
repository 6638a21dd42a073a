/**
 * One subscriber's place in one channel. What it has not seen yet comes from the window of the feed, or is read from the
 * log: replay, catching up and live are the same loop.
 */
import type { EventId, From } from '../brokers/broker.ts'
import { takeBatch, type Batch, type Frame, type Gap } from './frame.ts'
import type { Feed, FramePage } from './feed.ts'
import { formatPosition } from './position.ts'

/** What is done with a subscriber that falls out of the history while it is connected. */
export type LagPolicy = 'gap' | 'disconnect' | 'latest'

/** Who a cursor delivers to. */
export interface Subscriber {
  readonly lag: LagPolicy
  /** It does not want every event. */
  readonly isFiltered: boolean
  /** Whether it wants this one. One that fails over the question ends, and does not. */
  wants (frame: Frame): boolean
  /** True while the next batch may be delivered. */
  readonly hasRoom: boolean
  /** Resolves `true` when there is room, `false` when the subscriber has gone. */
  room (): Promise<boolean>
  /** The cursor knows where it starts: what comes is contiguous with that, or follows a gap. */
  started (cursor: Cursor, gap: Gap | undefined): void
  deliver (cursor: Cursor, batch: Batch): void
  /** What was delivered leaves now. */
  flush (): void
  /** What came before the cursor's position is lost. */
  missed (cursor: Cursor, gap: Gap): void
  /** It has fallen out of the history, and wants to be told by the end. */
  lagged (): void
  /** The channel is over. */
  closed (retry: (() => number) | undefined): void
}

/** Where a cursor starts; `isUnknown` when it was to be a position that is none of this channel. */
export interface Start {
  from: From
  isUnknown?: true
}

// Milliseconds: a log that answers at once would keep everything else waiting. No turn before that, as what is published
// in it may push out what this subscriber has not seen.
const longestRun = 10

interface Newest {
  base: EventId
  frames: Frame[]
  last: EventId
  /** Events before those are missed. */
  isLossy: boolean
}

export class Cursor {
  readonly feed: Feed
  readonly name: string
  readonly #subscriber: Subscriber
  /** Its index among the cursors of the feed. */
  place = 0
  /** The id after which the next event comes. */
  position: EventId = ''
  /** The number of the next frame, when it reads from the window. */
  #number = -1
  /** It waits: for its start, for a page, or for room. */
  #isBusy = true
  #isOver = false

  constructor (feed: Feed, name: string, subscriber: Subscriber) {
    this.feed = feed
    this.name = name
    this.#subscriber = subscriber
    feed.add(this)
  }

  /** Its position as it goes over the wire. */
  get wirePosition (): string {
    return formatPosition(this.position, this.feed.tag)
  }

  /** Finds its position and tells it; nothing is delivered before `go()`. */
  async start ({ from, isUnknown }: Start): Promise<void> {
    const { feed } = this
    const isEarly = !feed.isOpen
    if (isEarly) await feed.opened
    if (this.#isOver || feed.isClosed) return
    let gap: Gap | undefined
    if (from === 'live') {
      const { position, number } = isEarly ? feed.start : feed.now
      this.position = position
      this.#number = number
    } else if (typeof from === 'string' && feed.numberAfter(from) !== undefined) {
      this.position = from
    } else {
      const page = await this.#page(from)
      if (page === undefined) return
      if (isUnknown) gap = { reason: 'unknown', after: null }
      else if (!page.contiguous) gap = { reason: feed.reasonAt(from as EventId, page.base), after: formatPosition(from as EventId, feed.tag) }
      this.position = page.base
    }
    this.#subscriber.started(this, gap)
  }

  /** Starts to deliver. */
  go (): void {
    this.#isBusy = false
    this.pump()
  }

  close (retry: (() => number) | undefined): void {
    this.#subscriber.closed(retry)
  }

  release (): void {
    if (this.#isOver) return
    this.#isOver = true
    this.feed.remove(this)
  }

  /** Delivers, and pays for the write here: one that waits for the end of the turn would be in nobody's slice. */
  pumpAndFlush (): void {
    const number = this.#number
    this.pump()
    if (this.#number !== number) this.#subscriber.flush()
  }

  /** Delivers what is in the window, as far as there is room. */
  pump (): void {
    const { feed } = this
    const subscriber = this.#subscriber
    while (!this.#isBusy && !this.#isOver && this.#number !== feed.end) {
      // What was delivered in this turn may only have to leave: the socket of one that reads takes more than waits here.
      if (!subscriber.hasRoom) subscriber.flush()
      const batch = subscriber.hasRoom ? feed.batch(this.#number) : undefined
      if (batch === undefined) {
        // By the time there is room, it may not be in the window any more.
        void this.#catchUp()
        return
      }
      this.#number += batch.frames.length
      this.#deliver(batch)
    }
  }

  #deliver (batch: Batch): void {
    this.position = batch.last.stored.id
    // A filter may run code that publishes.
    const wasBusy = this.#isBusy
    this.#isBusy = true
    this.#subscriber.deliver(this, batch)
    this.#isBusy = wasBusy
  }

  /** Reads on from a position; undefined when it is over. */
  async #page (from: From): Promise<FramePage | undefined> {
    const { feed } = this
    while (!this.#isOver && !feed.isClosed) {
      // Without an answer, the next one is asked for when it is time to.
      const page = await feed.page(from)
      await feed.readerTurn()
      if (page !== undefined && !this.#isOver) return page
    }
    return undefined
  }

  /** Reads on from its position until it is in the window again. */
  async #catchUp (): Promise<void> {
    const { feed } = this
    const subscriber = this.#subscriber
    const breathe = breathing()
    /** While it skips to the newest of each key: the newest event when it was last told of a gap. */
    let told: EventId | undefined
    this.#isBusy = true
    for (;;) {
      if (!subscriber.hasRoom && !await subscriber.room()) return
      const number = told === undefined ? feed.numberAfter(this.position) : undefined
      if (number !== undefined) {
        this.#number = number
        break
      }
      await breathe()
      const read = await this.#readOn(told, breathe)
      if (read === undefined || this.#isOver) return
      told = read.told
    }
    this.#isBusy = false
    this.pump()
  }

  /** Delivers what follows, in a call of its own: whoever waits for room then holds a position, not a page. Undefined when it is over. */
  async #readOn (told: EventId | undefined, breathe: () => Promise<void>): Promise<{ told?: EventId } | undefined> {
    const { feed } = this
    const page = await this.#page(this.position)
    if (page === undefined) return undefined
    if (told !== undefined) return await this.#skip(page, told, breathe)
    if (page.contiguous) {
      // It is of this log.
      this.#number = -1
      this.#deliverPage(page)
      // It has seen more than the feed, which is about to be told; unless that came while the page was read.
      const isAhead = page.frames.length === 0 && page.changes === feed.changes && feed.numberAfter(this.position) === undefined
      if (isAhead) await feed.changed()
      return {}
    }
    const gap = this.#gap(page.base)
    if (gap.reason === 'slow' && this.#subscriber.lag === 'disconnect') {
      this.#subscriber.lagged()
      return undefined
    }
    if (gap.reason === 'slow' && this.#subscriber.lag === 'latest') return await this.#skip(page, '', breathe)
    this.#miss(page.base, gap)
    this.#deliverPage(page)
    return {}
  }

  /** Goes on with the newest event of each key, as far as there is room; what it was `told` of by a gap stands for all without a key. */
  async #skip (page: FramePage, told: EventId, breathe: () => Promise<void>): Promise<{ told?: EventId } | undefined> {
    const newest = await this.#newestOfKeys(page, told, breathe)
    if (newest === undefined) return undefined
    const { base, frames, last, isLossy } = newest
    if (isLossy) this.#miss(base, this.#gap(base))
    let delivered = 0
    while (delivered < frames.length && this.#subscriber.hasRoom && !this.#isOver) {
      const batch = takeBatch(i => frames[i], delivered)
      delivered += batch.frames.length
      this.#deliver(batch)
    }
    // By the time there is room for the rest, others may be the newest.
    if (delivered < frames.length) return { told: isLossy ? last : told }
    this.position = last
    return {}
  }

  /**
   * The newest frame of each key that follows `base`, in order. Those without a key are lost with what was trimmed, or
   * with what was told of before; else they are in there, too.
   */
  async #newestOfKeys (first: FramePage, told: EventId, breathe: () => Promise<void>): Promise<Newest | undefined> {
    const { feed } = this
    const subscriber = this.#subscriber
    const newest = new Map<string | Frame, Frame>()
    let { base } = first
    let last = base
    // What newer events of the same key stand for is known of all events, not of those that pass a filter.
    let isLossy = !first.contiguous && (subscriber.isFiltered || feed.hasLost(this.position, base))
    let page: FramePage | undefined = first
    while (page !== undefined) {
      for (const frame of page.frames) {
        last = frame.stored.id
        if (!subscriber.wants(frame)) {
          if (this.#isOver) return undefined
        } else if (frame.key !== undefined) {
          newest.delete(frame.key)
          newest.set(frame.key, frame)
        } else if (!first.contiguous) {
          isLossy = true
        } else if (told === '' || feed.isAfter(last, told)) {
          newest.set(frame, frame)
        }
      }
      if (page.isLast) return { base, frames: [...newest.values()], last, isLossy }
      await breathe()
      page = await this.#page(last)
      if (page?.contiguous === false) {
        // Trimmed while it was read, and so are those before it.
        newest.clear()
        last = base = page.base
        isLossy = true
      }
    }
    return undefined
  }

  #deliverPage (page: FramePage): void {
    let start = 0
    while (start < page.frames.length && this.#subscriber.hasRoom && !this.#isOver) {
      const batch = page.batch(start)
      start += batch.frames.length
      this.#deliver(batch)
    }
  }

  #miss (base: EventId, gap: Gap): void {
    this.position = base
    this.#subscriber.missed(this, gap)
  }

  #gap (base: EventId): Gap {
    const { feed, position } = this
    const isAnotherLog = this.#number === feed.resetAt || feed.reasonAt(position, base) === 'unknown'
    return { reason: isAnotherLog ? 'unknown' : 'slow', after: this.wirePosition }
  }
}

function breathing (): () => Promise<void> {
  let since = performance.now()
  return async () => {
    if (performance.now() - since < longestRun) return
    await new Promise(resolve => setImmediate(resolve))
    since = performance.now()
  }
}
