/**
 * What carries the events of channels: it keeps one log a channel, appends, reads back, and tells of what is appended.
 * It knows nothing of streams. Every implementation passes the contract suite in test/fixtures/broker-contract.
 */

/** Opaque outside its broker; `[0-9A-Za-z-]{1,56}`, so that 16 of them fit into 1,024 bytes; rises along a log, and is never given twice, not even after a wipe. */
export type EventId = string

/** A position: after the event of an id, at the head (nothing that is there by now), before the oldest retained event, or before the newest so many. */
export type From = EventId | 'live' | 'earliest' | number

/** How much of a channel can be replayed. All three bounds hold together. */
export interface History {
  /** The newest so many events. Default 256. */
  events: number
  /** Of at most so many bytes, but for the newest one. Default 1 048 576. */
  bytes: number
  /** That are not older than so many milliseconds. Default 300 000. */
  age: number
}

export interface Stored {
  readonly id: EventId
  /** The id that the log had just before; for its first event the id that it was born with. */
  readonly previous: EventId
  readonly data: string
}

export interface Page {
  /**
   * The position is an anchor: in the log, or just before its oldest retained event, or its head. False when events
   * after it may be missing.
   */
  contiguous: boolean
  /** The position just before `events[0]`, or the head when there is none; reading from it is contiguous. */
  base: EventId
  /** The oldest retained events after the position. */
  events: Stored[]
  /** The id of the newest event that the log ever had, or the one that it was born with. */
  head: EventId
}

/** Told of what is appended, in any order, perhaps twice or not at all: who listens compares `previous`. Must not throw. */
export interface Tail {
  event (event: Stored): void
  /** Events may have been missed: read again. */
  disrupted (): void
  /** The broker was closed: nothing comes any more. */
  closed (): void
}

export interface PublishRequest {
  /** An event with the same key is not appended again while the first one is retained; its id is the answer. */
  dedupe?: string
  /** What the channel keeps from now on. */
  history?: History
  /** When it was asked for, as `performance.now()` has it: `publishTimeout` counts from then. Default: now. */
  since?: number
}

/** Every promise settles in bounded time, also while what is behind the broker does not answer. */
export interface Broker {
  /** Milliseconds within which `publish()` settles, where there is a limit. */
  readonly publishTimeout?: number
  /**
   * Appends; resolves with the id. Publishes of one process are logged in the order of the calls.
   * Rejects with FST_STREAM_BROKER_UNAVAILABLE; the event may have been appended all the same.
   */
  publish (channel: string, data: string, request?: PublishRequest): Promise<EventId>
  /**
   * Resolves with at most `limit` events after `from`, at once: it never waits for new ones. An id that is not
   * `valid()` is older than all, and no anchor.
   */
  read (channel: string, from: From, limit: number): Promise<Page>
  /** Resolves with what ends it. Whatever is appended after that is told, or `disrupted()` is called. */
  tail (channel: string, tail: Tail): Promise<() => Promise<void>>
  /** Negative when `a` is older than `b`, positive when it is newer, 0 for the same. Both are `valid()`. */
  compare (a: EventId, b: EventId): number
  /** True for what this broker may have given as an id. What clients send is anything. */
  valid (id: string): boolean
  /** Resolves once the broker can be used. */
  ready (): Promise<void>
  /** Closes what the broker itself has opened, and tells the tails. Everything rejects with FST_STREAM_CLOSED from then on. */
  close (): Promise<void>
}

export const defaultHistory: History = { events: 256, bytes: 1_048_576, age: 300_000 }
