/**
 * One timer for the heartbeats of all streams.
 */
import { longestTimer } from '../options.ts'

/** What a heartbeat keeps alive. */
export interface Beating {
  /** Milliseconds of silence before a beat, above 0. */
  readonly heartbeat: number
  /** When the last byte was written, in milliseconds of `performance.now()`. */
  readonly lastWrite: number
  /** The bucket it waits in, which is when the next beat is due; 0 for none. Set by `Heartbeats`. */
  beatAt: number
  /** Sends a comment, unless bytes are waiting. */
  beat (): void
}

// 10,000 beats in one turn would block the loop for 150 ms.
const beatsPerTurn = 256

/**
 * Streams wait in buckets by the time at which they are due, rounded up to a quarter of their heartbeat, so that one
 * timer and a handful of buckets serve any number of streams and a beat comes after 1 to 1.25 × `heartbeat` of silence.
 */
export class Heartbeats {
  readonly #buckets = new Map<number, Set<Beating>>()
  #timer: NodeJS.Timeout | undefined
  #timerAt = Infinity

  /** The number of streams that are being kept alive. */
  get size (): number {
    return [...this.#buckets.values()].reduce((sum, bucket) => sum + bucket.size, 0)
  }

  add (stream: Beating): void {
    const width = stream.heartbeat / 4
    // Never a time that has come already: a stream with bytes waiting would be looked at without end.
    const due = (Math.floor(Math.max(stream.lastWrite + stream.heartbeat, performance.now()) / width) + 1) * width
    let bucket = this.#buckets.get(due)
    if (bucket === undefined) this.#buckets.set(due, bucket = new Set())
    bucket.add(stream)
    stream.beatAt = due
    if (due < this.#timerAt) this.#schedule(due)
  }

  remove (stream: Beating): void {
    if (stream.beatAt === 0) return
    const bucket = this.#buckets.get(stream.beatAt)
    bucket?.delete(stream)
    if (bucket?.size === 0) this.#buckets.delete(stream.beatAt)
    stream.beatAt = 0
    if (this.#buckets.size === 0) {
      clearTimeout(this.#timer)
      this.#timerAt = Infinity
    }
  }

  #schedule (due: number): void {
    clearTimeout(this.#timer)
    this.#timerAt = due
    this.#timer = setTimeout(() => this.#beat(), Math.min(longestTimer, Math.max(0, Math.ceil(due - performance.now()))))
    this.#timer.unref()
  }

  #beat (): void {
    const now = performance.now()
    let beats = 0
    for (const [due, bucket] of this.#buckets) {
      if (due > now) continue
      for (const stream of bucket) {
        if (beats++ >= beatsPerTurn) break
        bucket.delete(stream)
        if (now - stream.lastWrite >= stream.heartbeat) stream.beat()
        // beat() may have found that the stream is over.
        if (stream.beatAt !== 0) this.add(stream)
      }
      if (bucket.size === 0) this.#buckets.delete(due)
    }
    const next = Math.min(...this.#buckets.keys())
    if (next !== Infinity) this.#schedule(next)
    else this.#timerAt = Infinity
  }
}
