/**
 * Lets the event loop turn under a source that never waits: an async generator that waits for nothing runs microtasks
 * only, millions of items without a timer, an abort or another request.
 */

const mostBytes = 64 * 1024
const longest = 10

export class Turns {
  #bytes = 0
  #since = performance.now()
  #turning: Promise<void> | undefined

  /** True when 64 KiB or 10 milliseconds have gone by since the last turn. */
  isDue (bytes: number): boolean {
    return bytes - this.#bytes >= mostBytes || performance.now() - this.#since >= longest
  }

  /** Resolves after the next turn, in which what was written by now leaves. Callers of one turn share it. */
  turn (bytes: number): Promise<void> {
    this.#turning ??= new Promise(resolve => setImmediate(() => {
      this.#turning = undefined
      this.#bytes = bytes
      this.#since = performance.now()
      resolve()
    }))
    return this.#turning
  }
}
