/**
 * One channel's log as this process follows it, while it has subscribers: attached to the broker's tail, without a hole.
 */
import type { Broker, EventId, From, History, Stored, Tail } from '../brokers/broker.ts'
import { Retained } from '../brokers/retained.ts'
import type { Cursor } from './cursor.ts'
import { batchBytes, Frame, lastId, takeBatch, type Batch } from './frame.ts'

/** Frames after a position that was not in the window. */
export interface FramePage {
  contiguous: boolean
  base: EventId
  frames: Frame[]
  /** True when there was nothing newer. */
  isLast: boolean
  /** The batch that starts at a place of `frames`. */
  batch (start: number): Batch
}

/** Frames that stay at hand for subscribers that are a little behind; the log has the others. */
const windowEvents = 64
// A publisher that does not wait may go that much further before everybody who has room is served in its turn.
const slackEvents = 1024
const slackBytes = 1_048_576
const largestPage = 256
/** Milliseconds in which one page serves all who ask for the same one. */
const pageTime = 50
// A subscriber takes 10 µs: 10,000 of them would hold the loop for 100 ms.
const sliceTime = 10
/** Milliseconds before the first and the longest retry. */
const retryTimes: [number, number] = [100, 5000]

export class Feed implements Tail {
  readonly tag: string
  /** Resolves when the head is known, or the feed is closed. */
  readonly opened: Promise<void>
  /** What waits for that, in order; undefined when nothing has to. */
  #waiting: Array<() => void> | undefined = []
  readonly #broker: Broker
  readonly #channel: string
  readonly #history: History
  readonly #windowHistory: History
  readonly #window = new Retained<Frame>()
  /** The position before the oldest frame of the window. */
  #base: EventId = ''
  #head: EventId = ''
  /** A log of this process gives the same events again. */
  readonly #frames = new WeakMap<Stored, Frame>()
  readonly #cursors: Cursor[] = []
  /** Of the pass that is under way: who comes next. */
  #next = 0
  #isPassing = false
  #passedTo = 0
  readonly #batches = new Map<number, Batch>()
  readonly #pages = new Map<From, Promise<FramePage | undefined>>()
  #whenChanged: Array<() => void> = []
  /** The positions of pages that end at the head. */
  readonly #lastPages = new Set<From>()
  #averageBytes = 256
  /** What was told while the log is being read. */
  #buffer: Stored[] | undefined = []
  #isStale = false
  /** Where those start who came before the head was known: what was published since then is for them. */
  #start = { position: '', number: -1 }
  #isClosed = false
  #untail: (() => Promise<void>) | undefined
  readonly #newestOfKey = new Map<string, EventId>()
  /** The newest event that no newer event of its key stands for, as far as is known. */
  #lost: EventId = ''
  #resetAt = -1
  readonly #onEmpty: () => void

  constructor (broker: Broker, channel: string, tag: string, history: History, onEmpty: () => void) {
    this.#broker = broker
    this.#channel = channel
    this.tag = tag
    this.#onEmpty = onEmpty
    this.#history = history
    this.#windowHistory = { ...history, events: Math.min(windowEvents, history.events) }
    this.opened = this.#open()
  }

  get isOpen (): boolean {
    return this.#head !== ''
  }

  get isClosed (): boolean {
    return this.#isClosed
  }

  /** The position and the number of the next frame, now. */
  get now (): { position: EventId, number: number } {
    return { position: this.#head, number: this.#window.end }
  }

  /** The same, as they were when the head was first known. */
  get start (): { position: EventId, number: number } {
    return this.#start
  }

  /** The number of the next frame that comes. */
  get end (): number {
    return this.#window.end
  }

  /** The number that comes next for those who had seen everything when the log turned out to be another one. */
  get resetAt (): number {
    return this.#resetAt
  }

  /** Of the frames that are at hand. */
  get frames (): number {
    return this.#window.length
  }

  get bytes (): number {
    return this.#window.bytes
  }

  get subscribers (): number {
    return this.#cursors.length
  }

  /** Runs `action` once the head is known, or when the broker cannot tell it; actions run in the order of the calls. */
  whenOpen (action: () => void): void {
    if (this.#waiting === undefined) action()
    else this.#waiting.push(action)
  }

  add (cursor: Cursor): void {
    cursor.place = this.#cursors.push(cursor) - 1
  }

  remove (cursor: Cursor): void {
    const cursors = this.#cursors
    let { place } = cursor
    // Those before `next` have been served: the hole is filled from among them.
    if (place < this.#next) {
      this.#next--
      this.#put(cursors[this.#next] as Cursor, place)
      place = this.#next
    }
    const last = cursors.pop() as Cursor
    if (place < cursors.length) this.#put(last, place)
    if (cursors.length === 0) this.#onEmpty()
  }

  /** The number of the first frame after a position, or undefined when it is not in the window. */
  numberAfter (id: EventId): number | undefined {
    const window = this.#window
    // Those of a pass that is under way are still being delivered.
    if (!this.#isPassing) this.#trim(window.end)
    if (id === this.#base) return window.first
    for (let number = window.end - 1; number >= window.first; number--) {
      if (window.at(number).stored.id === id) return number + 1
    }
    return undefined
  }

  /** The frames from `number` on, which is before `end`; undefined when they are no longer in the window. */
  batch (number: number): Batch | undefined {
    const window = this.#window
    if (number < window.first) return undefined
    let batch = this.#batches.get(number)
    if (batch === undefined) {
      batch = takeBatch(i => i < window.end ? window.at(i) : undefined, number)
      this.#batches.set(number, batch)
    }
    return batch
  }

  /** Reads on from a position; all who ask for the same one at the same time share the answer. Undefined when the feed has closed. */
  page (from: From): Promise<FramePage | undefined> {
    let page = this.#pages.get(from)
    if (page === undefined) {
      page = this.#readPage(from)
      this.#pages.set(from, page)
    }
    return page
  }

  /** Resolves when the window has changed, or the feed has closed. */
  changed (): Promise<void> {
    return new Promise(resolve => this.#whenChanged.push(resolve))
  }

  /** The position from which the newest `count` events follow. */
  async before (count: number): Promise<EventId | undefined> {
    const positions: EventId[] = []
    let from: From = 'earliest'
    for (;;) {
      const page = await this.page(from)
      if (page === undefined) return undefined
      if (from === 'earliest') positions.push(page.base)
      for (const frame of page.frames) positions.push(frame.stored.id)
      if (positions.length > count + 1) positions.splice(0, positions.length - count - 1)
      if (page.isLast) return positions[0]
      from = positions.at(-1) as EventId
    }
  }

  /** Why a position is no anchor of a log that begins after `base`. */
  reasonAt (position: EventId, base: EventId): 'trimmed' | 'unknown' {
    return this.#broker.valid(position) && this.#broker.compare(position, base) < 0 ? 'trimmed' : 'unknown'
  }

  /** True when an event after `position` was lost for those who want the newest of each key only; the log begins after `base`. */
  hasLost (position: EventId, base: EventId): boolean {
    const broker = this.#broker
    // What is trimmed already, and was not told yet.
    if (broker.compare(base, this.#head) > 0) return true
    for (const [key, id] of this.#newestOfKey) {
      if (broker.compare(id, base) > 0) break
      this.#newestOfKey.delete(key)
      this.#lose(id)
    }
    return broker.compare(this.#lost, position) > 0
  }

  event (event: Stored): void {
    if (this.#isClosed) return
    if (this.#buffer !== undefined) {
      this.#buffer.push(event)
      // What waits there is in the log as well.
      if (this.#buffer.length > slackEvents) {
        this.#buffer.length = 0
        this.#isStale = true
      }
    } else if (event.previous === this.#head) {
      this.#append(event)
    } else if (this.numberAfter(event.id) === undefined) {
      void this.#resync()
    }
  }

  disrupted (): void {
    if (this.#isClosed) return
    if (this.#buffer === undefined) void this.#resync()
    else this.#isStale = true
  }

  /** Tells every subscriber that it is over. */
  close (retry?: () => number): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopWaiting()
    for (const cursor of [...this.#cursors]) {
      // What was published before is for those who have seen the rest.
      cursor.pump()
      cursor.close(retry)
    }
    this.#tellChanged()
    void this.#leave()
  }

  async #leave (): Promise<void> {
    try {
      await this.#untail?.()
    } catch {
      // Nobody listens any more.
    }
    this.#untail = undefined
  }

  async #open (): Promise<void> {
    this.#untail = await this.#insist(() => this.#broker.tail(this.#channel, this))
    if (this.#isClosed) return await this.#leave()
    const page = await this.#insist(() => this.#broker.read(this.#channel, 'live', 1))
    if (page === undefined || this.#isClosed) return
    this.#reset(page.head)
    this.#start = this.now
    this.#takeBuffer()
    if (this.#isStale) await this.#resync()
    this.#stopWaiting()
  }

  #stopWaiting (): void {
    const waiting = this.#waiting ?? []
    this.#waiting = undefined
    for (const action of waiting) action()
  }

  /** Reads again from the head, until nothing can have been missed. */
  async #resync (): Promise<void> {
    do {
      this.#isStale = false
      this.#buffer ??= []
      const from = this.#head
      const page = await this.#insist(() => this.#broker.read(this.#channel, from, largestPage))
      if (page === undefined || this.#isClosed) return
      if (page.contiguous && lastId(page.events, from) === page.head) {
        for (const event of page.events) this.#append(event)
      } else {
        // Too much, or another log: everybody reads on from where he is.
        this.#reset(page.head)
      }
      this.#takeBuffer()
    } while (this.#isStale)
    this.#schedulePass()
  }

  #takeBuffer (): void {
    const buffer = this.#buffer as Stored[]
    // A subscriber that is served meanwhile may publish: what that tells waits in the buffer, too.
    for (const event of buffer) {
      if (event.previous === this.#head) {
        this.#append(event)
      } else if (this.#broker.compare(event.id, this.#head) > 0) {
        this.#isStale = true
        break
      }
    }
    this.#buffer = this.#isStale ? [] : undefined
  }

  #append (event: Stored): void {
    const frame = this.#frame(event)
    this.#window.push(frame, frame.bytes)
    this.#batches.clear()
    for (const from of this.#lastPages) this.#pages.delete(from)
    this.#lastPages.clear()
    this.#head = event.id
    this.#noteKey(frame)
    this.#tellChanged()
    const { events, bytes } = this.#windowHistory
    if (this.#window.length > events + slackEvents || this.#window.bytes > bytes + slackBytes + frame.bytes) {
      for (const cursor of [...this.#cursors]) cursor.pump()
      this.#trim(this.#window.end)
    }
    this.#schedulePass()
  }

  #reset (head: EventId): void {
    this.#resetAt = this.#window.end
    this.#window.clear()
    this.#batches.clear()
    this.#newestOfKey.clear()
    this.#base = this.#head = this.#lost = head
    this.#tellChanged()
  }

  #tellChanged (): void {
    if (this.#whenChanged.length === 0) return
    for (const resolve of this.#whenChanged.splice(0)) resolve()
  }

  /** Drops what is outside of the bounds, up to the frame with that number. */
  #trim (end: number): void {
    const window = this.#window
    while (window.first < end && window.isOver(this.#windowHistory)) {
      const frame = window.shift()
      this.#base = frame.stored.id
      this.#batches.clear()
    }
  }

  #schedulePass (): void {
    if (this.#isPassing || this.#isClosed) return
    this.#isPassing = true
    // In the next tick the microtasks are dry: what one turn publishes leaves in one write.
    process.nextTick(pass, this)
  }

  static pass (feed: Feed): void {
    if (feed.#next === 0) feed.#passedTo = feed.#window.end
    const start = performance.now()
    while (feed.#next < feed.#cursors.length) {
      const cursor = feed.#cursors[feed.#next++] as Cursor
      cursor.pumpAndFlush()
      if ((feed.#next & 63) === 0 && performance.now() - start >= sliceTime) {
        setImmediate(pass, feed)
        return
      }
    }
    feed.#next = 0
    feed.#isPassing = false
    feed.#trim(feed.#passedTo)
    // Those who were served early have not seen what came since.
    if (feed.#passedTo < feed.#window.end) feed.#schedulePass()
  }

  #put (cursor: Cursor, place: number): void {
    this.#cursors[place] = cursor
    cursor.place = place
  }

  #frame (event: Stored): Frame {
    let frame = this.#frames.get(event)
    if (frame === undefined) {
      frame = new Frame(event, this.tag)
      this.#frames.set(event, frame)
      this.#averageBytes += (frame.bytes - this.#averageBytes) / 16
    }
    return frame
  }

  async #readPage (from: From): Promise<FramePage | undefined> {
    // About what one write takes: whoever has no room then holds a position, not a page.
    const limit = Math.max(1, Math.min(largestPage, Math.ceil(batchBytes / this.#averageBytes)))
    const page = await this.#insist(async () => {
      if (from === 'live' || from === 'earliest' || this.#broker.valid(from)) return await this.#broker.read(this.#channel, from, limit)
      return { ...await this.#broker.read(this.#channel, 'earliest', limit), contiguous: false }
    })
    if (page === undefined || this.#isClosed) return undefined
    const { contiguous, base, events, head } = page
    const frames = events.map(event => this.#frame(event))
    const isLast = lastId(events, head) === head
    // The log is ahead of what was told.
    if (this.#buffer === undefined && this.#broker.compare(head, this.#head) > 0) void this.#resync()
    const batches = new Map<number, Batch>()
    const batch = (start: number): Batch => {
      let taken = batches.get(start)
      if (taken === undefined) batches.set(start, taken = takeBatch(i => frames[i], start))
      return taken
    }
    const answer = { contiguous, base, frames, isLast, batch }
    this.#pages.delete(from)
    // An empty one, and one that has been overtaken, would be asked for again until it is forgotten.
    if (frames.length > 0 && !(isLast && head !== this.#head)) {
      if (from !== 'earliest') this.#keepPage(from, answer)
      // Whoever has asked from elsewhere goes on from its base, which may be trimmed by then.
      if (from !== base) this.#keepPage(base, { ...answer, contiguous: true })
    }
    return answer
  }

  #keepPage (from: EventId, page: FramePage): void {
    this.#pages.set(from, Promise.resolve(page))
    if (page.isLast) this.#lastPages.add(from)
    setTimeout(() => {
      this.#pages.delete(from)
      this.#lastPages.delete(from)
    }, pageTime).unref()
  }

  /** Asks again, later and later, until there is an answer; undefined when the feed has closed before. */
  async #insist<T> (ask: () => Promise<T>): Promise<T | undefined> {
    let [delay] = retryTimes
    for (;;) {
      try {
        return await ask()
      } catch {
        // Whoever publishes meanwhile learns by himself that the broker is not there.
        this.#stopWaiting()
      }
      if (this.#isClosed) return undefined
      await new Promise(resolve => setTimeout(resolve, delay * (0.5 + Math.random() / 2)).unref())
      if (this.#isClosed) return undefined
      delay = Math.min(retryTimes[1], delay * 2)
    }
  }

  #noteKey ({ key, stored }: Frame): void {
    if (key === undefined) return this.#lose(stored.id)
    this.#newestOfKey.delete(key)
    this.#newestOfKey.set(key, stored.id)
    if (this.#newestOfKey.size <= this.#history.events) return
    const [oldest] = this.#newestOfKey as Iterable<[string, EventId]>
    this.#newestOfKey.delete((oldest as [string, EventId])[0])
    this.#lose((oldest as [string, EventId])[1])
  }

  #lose (id: EventId): void {
    if (this.#broker.compare(id, this.#lost) > 0) this.#lost = id
  }
}

const { pass } = Feed
