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

/** Where a cursor starts: at a position, before the newest `count` events, or at one that is none of this channel. */
export type Start = { from: From, isUnknown?: true } | { count: number }

// Milliseconds: a log that answers at once would keep everything else waiting. No turn before that, as what is published
// in it may push out what this subscriber has not seen.
const longestRun = 10

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
  async start (start: Start): Promise<void> {
    const { feed } = this
    const isEarly = !feed.isOpen
    if (isEarly) await feed.opened
    if (this.#isOver || feed.isClosed) return
    let gap: Gap | undefined
    if ('count' in start) {
      this.position = await feed.before(start.count) ?? ''
    } else if (start.from === 'live') {
      const { position, number } = isEarly ? feed.start : feed.now
      this.position = position
      this.#number = number
    } else if (feed.numberAfter(start.from) !== undefined) {
      this.position = start.from
    } else {
      const page = await feed.page(start.from)
      if (page === undefined) return
      const { isUnknown } = start
      if (isUnknown) gap = { reason: 'unknown', after: null }
      else if (!page.contiguous) gap = { reason: feed.reasonAt(start.from, page.base), after: formatPosition(start.from, feed.tag) }
      this.position = page.base
    }
    if (this.#isOver || feed.isClosed) return
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

  /** Reads on from its position until it is in the window again. */
  async #catchUp (): Promise<void> {
    const { feed } = this
    const subscriber = this.#subscriber
    this.#isBusy = true
    let since = performance.now()
    for (;;) {
      if (!subscriber.hasRoom && !await subscriber.room()) return
      const number = feed.numberAfter(this.position)
      if (number !== undefined) {
        this.#number = number
        break
      }
      if (performance.now() - since >= longestRun) {
        await new Promise(resolve => setImmediate(resolve))
        since = performance.now()
      }
      const page = await feed.page(this.position)
      if (page === undefined || this.#isOver) return
      if (page.contiguous) {
        this.#deliverPage(page)
        // It has seen more than the feed, which is about to be told.
        if (page.frames.length === 0 && feed.numberAfter(this.position) === undefined) await feed.changed()
      } else {
        const gap = this.#gap(page)
        if (gap.reason === 'slow' && subscriber.lag === 'disconnect') return subscriber.lagged()
        if (gap.reason === 'slow' && subscriber.lag === 'latest') {
          if (!await this.#skip(page, gap)) return
        } else {
          this.#miss(page, gap)
          this.#deliverPage(page)
        }
      }
      if (this.#isOver) return
    }
    this.#isBusy = false
    this.pump()
  }

  /** Goes on with the newest event of each key; false when it is over. */
  async #skip (first: FramePage, gap: Gap): Promise<boolean> {
    const newest = new Map<string, Frame>()
    let isLossy = this.feed.hasLost(this.position, first.base)
    let page = first
    let last = page.base
    for (;;) {
      for (const frame of page.frames) {
        last = frame.stored.id
        if (frame.key === undefined) {
          isLossy = true
        } else {
          newest.delete(frame.key)
          newest.set(frame.key, frame)
        }
      }
      if (page.isLast) break
      const next = await this.feed.page(last)
      if (next === undefined || this.#isOver) return false
      // Trimmed while it was read.
      if (!next.contiguous) isLossy = true
      page = next
    }
    if (isLossy) this.#miss(first, gap)
    const frames = [...newest.values()]
    let delivered = 0
    while (delivered < frames.length && this.#subscriber.hasRoom && !this.#isOver) {
      const batch = takeBatch(i => frames[i], delivered)
      delivered += batch.frames.length
      this.#deliver(batch)
    }
    // What does not fit is read again from here.
    if (delivered === frames.length) this.position = last
    return true
  }

  #deliverPage (page: FramePage): void {
    let start = 0
    while (start < page.frames.length && this.#subscriber.hasRoom && !this.#isOver) {
      const batch = page.batch(start)
      start += batch.frames.length
      this.#deliver(batch)
    }
  }

  #miss (page: FramePage, gap: Gap): void {
    this.position = page.base
    this.#subscriber.missed(this, gap)
  }

  #gap ({ base }: FramePage): Gap {
    const { feed, position } = this
    const isAnotherLog = this.#number === feed.resetAt || feed.reasonAt(position, base) === 'unknown'
    return { reason: isAnotherLog ? 'unknown' : 'slow', after: this.wirePosition }
  }
}
