/**
 * An event of a channel: serialised once when it is published, framed once in each process that has subscribers.
 */
import type { Stored } from '../brokers/broker.ts'
import { FST_STREAM_INVALID_FIELD, kindOf } from '../errors.ts'
import { encodeEvent, type Serialize, type TypedEvents } from '../stream/encode.ts'
import { SharedChunk } from '../stream/framing.ts'
import { formatPosition } from './position.ts'

/**
 * An event as `filter` and `subscribe()` see it. All subscribers share it. `Events` has the type of the data of each
 * event name; `message` is the event without a name.
 */
export type ChannelEvent<Events extends object = Record<string, unknown>> = {
  [Name in keyof Events & string]: {
    readonly type: 'event'
    readonly id: string
    /** `message` when it was published without a name. */
    readonly event: Name
    /** What newer events of the same key replace, for subscribers with `lag: 'latest'`. */
    readonly key: string | undefined
    /** The encoded data: text, lines joined by LF. */
    readonly data: string
    /** The data parsed as JSON, once for all; throws a SyntaxError when it is none, as a text may be. */
    json (): Events[Name] extends infer Data ? Data extends string ? unknown : Data : never
  }
}[keyof Events & string]

/** Names of blocks that the channel itself sends. */
export const ownNames = ['gap', 'position']

/**
 * What the log keeps of an event: the length of the key and the key, and the block without id and blank line.
 * Throws as `encodeEvent` does.
 */
export function encodeStored (event: unknown, key: string | undefined, serialize: Serialize, typed?: TypedEvents): string {
  const block = encodeEvent(event, serialize, typed)
  if (typeof event === 'object') {
    const { id, event: name } = event as { id?: unknown, event?: string }
    if (id !== undefined) throw new FST_STREAM_INVALID_FIELD('id', 'absent: ids belong to the channel', kindOf(id))
    if (ownNames.includes(name as string)) throw new FST_STREAM_INVALID_FIELD('event', 'another one: gap and position are of the channel itself', name as string)
  }
  const lines = block.endsWith('\n\n') ? block.slice(0, -1) : block
  return key === undefined ? `\n${lines}` : `${key.length}\n${key}${lines}`
}

export class Frame {
  /** In the log. */
  readonly stored: Stored
  /** On the wire. */
  readonly id: string
  readonly key: string | undefined
  /** The block without its id and the blank line. */
  readonly lines: string
  readonly bytes: number
  #view: View | undefined

  constructor (stored: Stored, tag: string) {
    const { data } = stored
    const start = data.indexOf('\n') + 1
    const end = start + Number(data.slice(0, start))
    this.stored = stored
    this.id = formatPosition(stored.id, tag)
    this.key = start === 1 ? undefined : data.slice(start, end)
    this.lines = data.slice(end)
    this.bytes = Buffer.byteLength(this.lines)
  }

  /** The block of a stream on which it has this id. */
  block (id: string): string {
    return `id: ${id}\n${this.lines}\n`
  }

  /** False for a comment or a retry, which clients do not dispatch. */
  get isEvent (): boolean {
    return this.lines.startsWith('data: ') || this.lines.includes('\ndata: ')
  }

  get view (): ChannelEvent {
    this.#view ??= new View(this)
    return this.#view
  }
}

class View {
  readonly type = 'event'
  readonly id: string
  readonly event: string = 'message'
  readonly key: string | undefined
  readonly data: string
  #json: { value: unknown } | undefined

  constructor ({ id, key, lines }: Frame) {
    const data = []
    for (const line of lines.split('\n')) {
      if (line.startsWith('data: ')) data.push(line.slice(6))
      else if (line.startsWith('event: ')) this.event = line.slice(7) || 'message'
    }
    this.id = id
    this.key = key
    this.data = data.join('\n')
    // All subscribers have the same one.
    Object.freeze(this)
  }

  // Bound, as filters take it out: ({ json }) => json().mine
  readonly json = (): unknown => {
    this.#json ??= { value: JSON.parse(this.data) }
    return this.#json.value
  }
}

/** Frames that follow each other, and leave in one write. */
export class Batch {
  readonly frames: readonly Frame[]
  #joined: SharedChunk | undefined
  #events: number | undefined

  constructor (frames: readonly Frame[]) {
    this.frames = frames
  }

  get last (): Frame {
    return this.frames[this.frames.length - 1] as Frame
  }

  /** How many of them clients dispatch. */
  get events (): number {
    this.#events ??= this.frames.filter(frame => frame.isEvent).length
    return this.#events
  }

  /** The bytes of all, shared by all who get them. */
  get joined (): SharedChunk {
    this.#joined ??= new SharedChunk(Buffer.from(this.frames.map(frame => frame.block(frame.id)).join('')))
    return this.#joined
  }
}

/** About the bytes of a batch. */
export const batchBytes = 65_536

/** The frames from `start` on that leave in one write, until `at` gives no more. */
export function takeBatch (at: (index: number) => Frame | undefined, start: number): Batch {
  const frames: Frame[] = []
  let bytes = 0
  for (let i = start; bytes < batchBytes; i++) {
    const frame = at(i)
    if (frame === undefined) break
    frames.push(frame)
    bytes += frame.bytes + frame.id.length + 6
  }
  return new Batch(frames)
}

/** What is known of events that a subscriber can no longer be given. */
export interface Gap {
  reason: GapReason
  /** The wire id of the position that cannot be continued; null when it is none of this channel. */
  after: string | null
}

/**
 * - `trimmed`: the events after the position are no longer kept
 * - `unknown`: the log does not know the position
 * - `slow`: the subscriber has fallen out of the history while it was connected
 */
export type GapReason = 'trimmed' | 'unknown' | 'slow'

/** The block that tells of a gap; resuming from its id is without one. */
export function gapBlock (id: string, channel: string, { reason, after }: Gap): string {
  return `event: gap\nid: ${id}\ndata: ${JSON.stringify({ reason, channel, after })}\n\n`
}

/** The block that tells a client where it stands. */
export function positionBlock (id: string): string {
  return `event: position\nid: ${id}\ndata: {}\n\n`
}
