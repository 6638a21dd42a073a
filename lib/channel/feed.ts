/**
 * One channel's log as this process follows it, while it has subscribers: attached to the broker's tail, without a hole.
 */
import type { Broker, EventId, From, History, Page, Stored, Tail } from '../brokers/broker.ts'
import { Retained } from '../brokers/retained.ts'
import type { Cursor } from './cursor.ts'
import { batchBytes, Frame, takeBatch, type Batch } from './frame.ts'

/** Frames after a position that was not in the window. */
export interface FramePage {
  contiguous: boolean
  base: EventId
  frames: Frame[]
  /** True when there was nothing newer. */
  isLast: boolean
  /** How often the feed had changed when it was asked for. */
  changes: number
  /** The batch that starts at a place of `frames`. */
  batch (start: number): Batch
}

interface AskedPage {
  readonly page: Promise<FramePage | undefined>
  /** Somebody has asked for it since it was last looked at. */
  isWanted: boolean
}

/** Whose feed it is. */
export interface FeedHost {
  /** The last subscriber has left. */
  emptied (feed: Feed): void
  /** The broker gives no answer. */
  away (error: unknown): void
  /** It gives answers again, or nobody asks for them any more. */
  back (isAnswering: boolean): void
  /** The broker was closed. */
  ended (): void
}

/** Frames that stay at hand for subscribers that are a little behind; the log has the others. */
const windowEvents = 64
// A publisher that does not wait may go that much further before everybody who has room is served in its turn.
const slackEvents = 1024
const slackBytes = 1_048_576
const largestPage = 256
/** Milliseconds since somebody has asked for a page in which it serves all who ask for the same one, and the most since it was read. */
const pageTime = 50
const longestPageTime = 2000
/** Those who go on with a page in one turn of the loop: each of them writes. */
const readersATurn = 32
// A subscriber takes 10 µs: 10,000 of them would hold the loop for 100 ms.
const sliceTime = 10
/** Milliseconds before the first and the longest retry. */
const retryTimes: [number, number] = [100, 5000]
/** Milliseconds that publishers wait for the head at most. */
const longestOpening = 1000

export class Feed implements Tail {
  readonly tag: string
  /** Resolves when the head is known, or is not asked for any more. */
  readonly opened: Promise<void>
  /** What waits for that, in order; undefined when nothing has to. */
  #waiting: Array<() => void> | undefined = []
  readonly #openingTimer: NodeJS.Timeout
  /** Ends when the broker, which gave no answer, may be asked again. */
  #pause: Promise<void> | undefined
  #endPause: () => void = () => {}
  #retryTime = retryTimes[0]
  #isAway = false
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
  readonly #pages = new Map<From, AskedPage>()
  /** How many have gone on with a page in this turn, and who comes in the next ones. */
  #readers = 0
  readonly #nextReaders: Array<() => void> = []
  /** How often events have come, or the log has turned out to be another one. */
  changes = 0
  #whenChanged: Array<() => void> = []
  /** The positions of pages that end at the head. */
  readonly #lastPages = new Set<From>()
  #averageBytes = 256
  /** What was told while the log is being read. */
  #buffer: Stored[] | undefined = []
  #bufferLength = 0
  #isStale = false
  /** Where those start who came before the head was known: what was published since then is for them. */
  #start = { position: '', number: -1 }
  #isClosed = false
  #untail: (() => Promise<void>) | undefined
  readonly #newestOfKey = new Map<string, EventId>()
  /** The newest event that no newer event of its key stands for, as far as is known. */
  #lost: EventId = ''
  #resetAt = NaN
  readonly #host: FeedHost

  constructor (broker: Broker, channel: string, tag: string, history: History, host: FeedHost) {
    this.#broker = broker
    this.#channel = channel
    this.tag = tag
    this.#host = host
    this.#history = history
    this.#windowHistory = { ...history, events: Math.min(windowEvents, history.events) }
    this.#openingTimer = setTimeout(() => { this.#stopWaiting() }, Math.min(longestOpening, broker.publishTimeout ?? Infinity)).unref()
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

  /** Runs `action` once the head is known, or when the broker does not tell it; actions run in the order of the calls. */
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
    if (cursors.length === 0) this.#host.emptied(this)
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

  /** Reads on from a position; all who ask for the same one at the same time share the answer. Undefined when there is none. */
  page (from: From): Promise<FramePage | undefined> {
    let asked = this.#pages.get(from)
    if (asked === undefined) this.#pages.set(from, asked = { page: this.#readPage(from), isWanted: false })
    asked.isWanted = true
    return asked.page
  }

  /** Resolves in the turn in which who has got a page may go on; undefined when that is this one. */
  readerTurn (): Promise<void> | undefined {
    if (this.#readers === 0) setImmediate(nextReaders, this)
    if (this.#readers++ < readersATurn) return undefined
    return new Promise(resolve => { this.#nextReaders.push(resolve) })
  }

  static nextReaders (feed: Feed): void {
    const readers = feed.#nextReaders.splice(0, readersATurn)
    feed.#readers = readers.length
    if (readers.length > 0) setImmediate(nextReaders, feed)
    for (const resolve of readers) resolve()
  }

  /** Resolves when the window has changed, or the feed has closed. */
  changed (): Promise<void> {
    return new Promise(resolve => this.#whenChanged.push(resolve))
  }

  /** Why a position is no anchor of a log that begins after `base`. */
  reasonAt (position: EventId, base: EventId): 'trimmed' | 'unknown' {
    return this.#broker.valid(position) && this.isAfter(base, position) ? 'trimmed' : 'unknown'
  }

  isAfter (id: EventId, other: EventId): boolean {
    return this.#broker.compare(id, other) > 0
  }

  /** True when an event after `position` was lost for those who want the newest of each key only; the log begins after `base`. */
  hasLost (position: EventId, base: EventId): boolean {
    // What is trimmed already, and was not told yet.
    if (this.isAfter(base, this.#head)) return true
    for (const [key, id] of this.#newestOfKey) {
      if (this.isAfter(id, base)) break
      this.#newestOfKey.delete(key)
      this.#lose(id)
    }
    return this.isAfter(this.#lost, position)
  }

  event (event: Stored): void {
    if (this.#isClosed) return
    if (this.#buffer !== undefined) {
      this.#buffer.push(event)
      this.#bufferLength += event.data.length
      // What waits there is in the log as well.
      if (this.#buffer.length > slackEvents || this.#bufferLength > slackBytes) {
        this.#buffer.length = 0
        this.#bufferLength = 0
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
    // It has word of the log, so it may be asked again.
    this.#endPause()
    if (this.#buffer === undefined) void this.#resync()
    else this.#isStale = true
  }

  closed (): void {
    if (!this.#isClosed) this.#host.ended()
  }

  /** Tells every subscriber that it is over. */
  close (retry?: () => number): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#stopWaiting()
    this.#tellBack(false)
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
    const page = await this.#insist(() => this.#read('live', 1))
    if (page === undefined || this.#isClosed) return
    this.#reset(page.head)
    this.#start = this.now
    this.#takeBuffer()
    if (this.#isStale) await this.#resync()
    this.#stopWaiting()
  }

  #stopWaiting (): void {
    clearTimeout(this.#openingTimer)
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
      const page = await this.#insist(() => this.#read(from, largestPage))
      if (page === undefined || this.#isClosed) return
      if (page.contiguous && (page.frames.at(-1)?.stored.id ?? from) === page.head) {
        for (const { stored } of page.frames) this.#append(stored)
      } else {
        // Too much, or another log: everybody reads on from where he is.
        this.#reset(page.head)
        if (page.contiguous) this.#resetAt = NaN
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
      } else if (this.isAfter(event.id, this.#head)) {
        this.#isStale = true
        break
      }
    }
    this.#buffer = this.#isStale ? [] : undefined
    this.#bufferLength = 0
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
    this.#pages.clear()
    this.#newestOfKey.clear()
    this.#base = this.#head = this.#lost = head
    this.#tellChanged()
  }

  #tellChanged (): void {
    this.changes++
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

  async #read (from: From, limit: number): Promise<Omit<Page, 'events'> & { frames: Frame[] }> {
    const { events, ...page } = await this.#broker.read(this.#channel, from, limit)
    return { ...page, frames: events.map(event => this.#frame(event)) }
  }

  async #readPage (from: From): Promise<FramePage | undefined> {
    // About what one write takes: whoever has no room then holds a position, not a page.
    const limit = Math.max(1, Math.min(largestPage, Math.ceil(batchBytes / this.#averageBytes)))
    let { changes } = this
    const page = await this.#ask(async () => {
      changes = this.changes
      return await this.#read(from, limit)
    })
    if (page === undefined || this.#isClosed) {
      this.#pages.delete(from)
      return undefined
    }
    const { contiguous, base, frames, head } = page
    const isLast = (frames.at(-1)?.stored.id ?? head) === head
    // The log is ahead of what was told.
    if (this.#buffer === undefined && this.isAfter(head, this.#head)) void this.#resync()
    const batches = new Map<number, Batch>()
    const batch = (start: number): Batch => {
      let taken = batches.get(start)
      if (taken === undefined) batches.set(start, taken = takeBatch(i => frames[i], start))
      return taken
    }
    const answer = { contiguous, base, frames, isLast, changes, batch }
    this.#pages.delete(from)
    // An empty one, and one that has been overtaken, would be asked for again until it is forgotten.
    if (frames.length > 0 && !(isLast && head !== this.#head)) {
      if (typeof from === 'string' && from !== 'earliest') this.#keepPage(from, answer)
      // Whoever has asked from elsewhere goes on from its base, which may be trimmed by then.
      if (from !== base) this.#keepPage(base, { ...answer, contiguous: true })
    }
    return answer
  }

  #keepPage (from: EventId, page: FramePage): void {
    const kept: AskedPage = { page: Promise.resolve(page), isWanted: false }
    const until = performance.now() + longestPageTime
    this.#pages.set(from, kept)
    if (page.isLast) this.#lastPages.add(from)
    const look = () => {
      if (this.#pages.get(from) !== kept) return
      if (kept.isWanted && performance.now() < until) {
        kept.isWanted = false
        setTimeout(look, pageTime).unref()
        return
      }
      this.#pages.delete(from)
      this.#lastPages.delete(from)
    }
    setTimeout(look, pageTime).unref()
  }

  /** Asks again, later and later, until there is an answer; undefined when the feed has closed before. */
  async #insist<T> (ask: () => Promise<T>): Promise<T | undefined> {
    while (!this.#isClosed) {
      const answer = await this.#ask(ask)
      if (answer !== undefined) return answer
    }
    return undefined
  }

  /** Asks when it is time to; undefined when there is no answer, or the feed has closed before. */
  async #ask<T> (ask: () => Promise<T>): Promise<T | undefined> {
    while (this.#pause !== undefined) await this.#pause
    if (this.#isClosed) return undefined
    try {
      const answer = await ask()
      if (answer === undefined) throw new TypeError('the broker has answered with undefined')
      if (this.#pause === undefined) this.#answered()
      return answer
    } catch (error) {
      this.#failed(error)
      return undefined
    }
  }

  #answered (): void {
    this.#retryTime = retryTimes[0]
    this.#tellBack(true)
  }

  #tellBack (isAnswering: boolean): void {
    if (!this.#isAway) return
    this.#isAway = false
    this.#host.back(isAnswering)
  }

  #failed (error: unknown): void {
    if (this.#isClosed) return
    if ((error as { code?: unknown } | undefined)?.code === 'FST_STREAM_CLOSED') return this.#host.ended()
    // Whoever publishes meanwhile learns by himself that the broker is not there.
    this.#stopWaiting()
    if (!this.#isAway) {
      this.#isAway = true
      this.#host.away(error)
    }
    // All wait together: what many ask for when it comes back is asked once.
    this.#pause ??= new Promise(resolve => {
      this.#endPause = () => {
        clearTimeout(timer)
        this.#pause = undefined
        resolve()
      }
      const timer = setTimeout(this.#endPause, this.#retryTime * (0.5 + Math.random() / 2)).unref()
      this.#retryTime = Math.min(retryTimes[1], this.#retryTime * 2)
    })
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
    if (this.isAfter(id, this.#lost)) this.#lost = id
  }
}

const { pass, nextReaders } = Feed
