/**
 * What one process publishes to one channel: a call at a time, so that the log has the order of the calls whatever is
 * lost, sent again or refused on the way. What comes meanwhile goes with the next call.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { FST_STREAM_BROKER_UNAVAILABLE } from '../../errors.ts'
import type { EventId, History, PublishRequest } from '../broker.ts'
import { isRefusal } from './calls.ts'

/** Appends events with one history in one go, and gives their ids. A call with the same number as before appends nothing more. */
export type Append = (number: number, events: LaneEvent[], history: History | undefined) => Promise<EventId[]>

export interface LaneEvent {
  readonly data: string
  readonly dedupe: string | undefined
}

interface Waiting extends LaneEvent {
  readonly history: History | undefined
  readonly resolve: (id: EventId) => void
  readonly reject: (error: unknown) => void
  isOver: boolean
}

// A script holds up everybody else.
const batchEvents = 100
const batchLength = 262_144
/** Milliseconds before a call is repeated, at first and at most. */
const pauses: [number, number] = [20, 500]

export class Lane {
  readonly #append: Append
  readonly #nextNumber: () => number
  readonly #timeout: number
  readonly #idle: () => void
  readonly #queue: Waiting[] = []
  #running: Promise<void> | undefined

  /** `nextNumber` rises with each call of a process; `idle` is called when nothing is left to do. */
  constructor (append: Append, nextNumber: () => number, timeout: number, idle: () => void) {
    this.#append = append
    this.#nextNumber = nextNumber
    this.#timeout = timeout
    this.#idle = idle
  }

  /** Resolves when everything has settled; undefined when it has. */
  get settled (): Promise<void> | undefined {
    return this.#running
  }

  publish (data: string, { dedupe, history, since = performance.now() }: PublishRequest): Promise<EventId> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.isOver = true
        reject(new FST_STREAM_BROKER_UNAVAILABLE(`no answer within ${this.#timeout} ms`))
      }, Math.max(1, since + this.#timeout - performance.now()))
      const waiting: Waiting = {
        data,
        dedupe,
        history,
        isOver: false,
        resolve: id => { clearTimeout(timer); resolve(id) },
        reject: error => { clearTimeout(timer); reject(error) }
      }
      this.#queue.push(waiting)
      this.#running ??= this.#run()
    })
  }

  async #run (): Promise<void> {
    while (this.#queue.length > 0) await this.#send(this.#take())
    this.#running = undefined
    this.#idle()
  }

  /** The next ones that go together. */
  #take (): Waiting[] {
    const queue = this.#queue
    const { history } = queue[0] as Waiting
    let count = 0
    let length = 0
    while (count < queue.length && count < batchEvents) {
      const next = queue[count] as Waiting
      length += next.data.length
      if (count > 0 && (length > batchLength || !isSame(history, next.history))) break
      count++
    }
    return queue.splice(0, count).filter(({ isOver }) => !isOver)
  }

  async #send (batch: Waiting[]): Promise<void> {
    const number = this.#nextNumber()
    for (let pause = pauses[0]; batch.some(({ isOver }) => !isOver); pause = Math.min(pauses[1], pause * 2)) {
      try {
        const ids = await this.#append(number, batch, batch[0]?.history)
        for (const [i, { resolve }] of batch.entries()) resolve(ids[i] as EventId)
        return
      } catch (error) {
        if (isRefusal(error)) {
          for (const { reject } of batch) reject(error)
          return
        }
        await delay(pause)
      }
    }
  }
}

function isSame (a: History | undefined, b: History | undefined): boolean {
  return a === b || (a?.events === b?.events && a?.bytes === b?.bytes && a?.age === b?.age)
}
