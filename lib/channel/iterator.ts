/**
 * `channel.subscribe()`: a channel as an async iterable.
 */
import { publishGap } from '../diagnostics.ts'
import { FST_STREAM_LAGGED } from '../errors.ts'
import { defaultLag, type SubscribeOptions } from '../options.ts'
import { onAbort } from '../stream/shared-listener.ts'
import type { ChannelItem, EventChannel } from './channel.ts'
import type { Cursor, LagPolicy, Subscriber } from './cursor.ts'
import type { Batch, Frame, Gap } from './frame.ts'
import { parsePositions } from './position.ts'
import { passes, startOf } from './reading.ts'

interface Waiting {
  resolve: (result: IteratorResult<ChannelItem>) => void
  reject: (error: unknown) => void
}

export class ChannelIterator implements AsyncIterableIterator<ChannelItem>, Subscriber {
  readonly lag: LagPolicy
  readonly #channel: EventChannel
  readonly #filter: SubscribeOptions['filter']
  readonly #cursor: Cursor
  readonly #forgetSignal: (() => void) | undefined
  /** At most one batch. */
  #items: ChannelItem[] = []
  #waiting: Waiting[] = []
  #room: Array<(isOpen: boolean) => void> = []
  #isOver = false
  #failure: { error: unknown } | undefined

  /** Begins to follow the channel. Throws FST_STREAM_CLOSED. */
  constructor (channel: EventChannel, { after, replay, filter, lag = defaultLag, signal }: SubscribeOptions) {
    this.lag = lag
    this.#channel = channel
    this.#filter = filter
    this.#cursor = channel.follow(this)
    void this.#cursor.start(startOf(channel.tag, after === undefined || after === '' ? undefined : parsePositions(after), replay))
    if (signal !== undefined) this.#forgetSignal = onAbort(signal, () => { void this.return() })
  }

  [Symbol.asyncIterator] (): this {
    return this
  }

  next (): Promise<IteratorResult<ChannelItem>> {
    const item = this.#items.shift()
    if (item !== undefined) {
      if (this.hasRoom) this.#tellRoom(true)
      return Promise.resolve({ done: false, value: item })
    }
    if (this.#failure !== undefined) {
      const { error } = this.#failure
      this.#failure = undefined
      return Promise.reject(error)
    }
    if (this.#isOver) return Promise.resolve(done)
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  return (): Promise<IteratorResult<ChannelItem>> {
    this.#items = []
    this.#failure = undefined
    this.#end()
    return Promise.resolve(done)
  }

  get hasRoom (): boolean {
    return this.#items.length === 0
  }

  room (): Promise<boolean> {
    return new Promise(resolve => this.#room.push(resolve))
  }

  started (cursor: Cursor, gap: Gap | undefined): void {
    if (gap === undefined) this.#give({ type: 'position', id: cursor.wirePosition })
    else this.missed(cursor, gap)
    cursor.go()
  }

  get isFiltered (): boolean {
    return this.#filter !== undefined
  }

  wants (frame: Frame): boolean {
    try {
      return passes(this.#filter, frame, undefined)
    } catch (error) {
      this.#fail(error)
      return false
    }
  }

  deliver (cursor: Cursor, { frames }: Batch): void {
    for (const frame of frames) {
      const isWanted = this.wants(frame)
      if (this.#isOver) return
      if (isWanted) this.#give(frame.isEvent ? frame.view : { type: 'position', id: frame.id })
    }
  }

  flush (): void {}

  missed (cursor: Cursor, gap: Gap): void {
    this.#channel.countGap()
    publishGap(cursor.name, gap, undefined)
    this.#give({ type: 'gap', id: cursor.wirePosition, ...gap })
  }

  lagged (): void {
    this.#fail(new FST_STREAM_LAGGED(this.#channel.name))
  }

  closed (): void {
    this.#end()
  }

  #give (item: ChannelItem): void {
    const waiting = this.#waiting.shift()
    if (waiting === undefined) this.#items.push(item)
    else waiting.resolve({ done: false, value: item })
  }

  #fail (error: unknown): void {
    const waiting = this.#waiting.shift()
    if (waiting === undefined) this.#failure = { error }
    else waiting.reject(error)
    this.#end()
  }

  #end (): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#forgetSignal?.()
    this.#cursor.release()
    for (const { resolve } of this.#waiting.splice(0)) resolve(done)
    this.#tellRoom(false)
  }

  #tellRoom (isOpen: boolean): void {
    for (const resolve of this.#room.splice(0)) resolve(isOpen)
  }
}

const done: IteratorReturnResult<undefined> = { done: true, value: undefined }
