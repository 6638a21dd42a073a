/**
 * The newest entries of a list, bounded by a history.
 */
import type { History } from './broker.ts'

interface Entry<T> {
  readonly item: T
  readonly bytes: number
  /** Milliseconds of `performance.now()`. */
  readonly at: number
}

/** Entries have numbers that rise by one and are never given twice. */
export class Retained<T> {
  /** Bytes of all entries. */
  bytes = 0
  #entries: Array<Entry<T>> = []
  /** Entries at the front that are gone already. */
  #gone = 0
  /** The number of the first place in `#entries`. */
  #offset = 0

  get length (): number {
    return this.#entries.length - this.#gone
  }

  /** The number of the oldest entry. */
  get first (): number {
    return this.#offset + this.#gone
  }

  /** The number that the next entry gets. */
  get end (): number {
    return this.#offset + this.#entries.length
  }

  /** When the oldest entry came; there has to be one. */
  get oldestAt (): number {
    return (this.#entries[this.#gone] as Entry<T>).at
  }

  at (number: number): T {
    return (this.#entries[number - this.#offset] as Entry<T>).item
  }

  push (item: T, bytes: number): void {
    this.#entries.push({ item, bytes, at: performance.now() })
    this.bytes += bytes
  }

  /** Takes out and returns the oldest entry; there has to be one. */
  shift (): T {
    const { item, bytes } = this.#entries[this.#gone] as Entry<T>
    this.#entries[this.#gone++] = undefined as unknown as Entry<T>
    this.bytes -= bytes
    // Moving them only now and then keeps a shift cheap.
    if (this.#gone * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#gone)
      this.#offset += this.#gone
      this.#gone = 0
    }
    return item
  }

  /** True when the oldest entry is outside of the bounds. The newest is exempt from `bytes`, never from `age`. */
  isOver ({ events, bytes, age }: History): boolean {
    const { length } = this
    return length > 0 && (length > events || (length > 1 && this.bytes > bytes) || performance.now() - this.oldestAt >= age)
  }

  /** Drops everything, and skips a number: whoever stood at the end is no longer in here. */
  clear (): void {
    this.#offset = this.end + 1
    this.#entries = []
    this.#gone = 0
    this.bytes = 0
  }
}
