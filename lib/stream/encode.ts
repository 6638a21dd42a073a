/**
 * The text/event-stream wire format: an event in, one block of text out.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */
import { types } from 'node:util'
import { FST_STREAM_INVALID_EVENT, FST_STREAM_INVALID_FIELD, kindOf, shown, withCause } from '../errors.ts'
import { ignoreRejection } from './promise-like.ts'

/** One event of an event stream. A key whose value is `undefined` counts as absent; at least one key must be left. */
export interface ServerSentEvent<Data = unknown> {
  /**
   * The payload. A string goes as it is, a `Uint8Array` as UTF-8, anything else through `serialize`
   * (default `JSON.stringify`). Line breaks of any kind reach the client as LF; '' is an empty message.
   */
  data?: Data
  /** Event type, one line. The client dispatches `message` when absent. Without `data` the client gets `''`. */
  event?: string
  /** Becomes the client's last event ID; '' resets it. One line, or a safe integer. Alone it is a checkpoint that dispatches nothing. */
  id?: string | number
  /** The client's reconnection time, a non-negative safe integer of milliseconds. */
  retry?: number
  /** Text that clients ignore. Each line becomes a comment line. */
  comment?: string
}

/**
 * What a source yields and `send` takes: a string (the data of a message) or an event. Where events are typed, `Events`
 * has the type of the data of each event name, and `message` is the event without a name.
 */
export type EventItem<Events extends object = Record<string, unknown>> = string extends keyof Events
  ? string | ServerSentEvent
  : TextOf<Events> | { [Name in keyof Events & string]: NamedEvent<Name, Events[Name]> }[keyof Events & string] | Undispatched

/** A string is the data of a message. */
type TextOf<Events> = Events extends { message: infer Data } ? (unknown extends Data ? string : Extract<Data, string>) : never

/** An event of that name. Without `data` the client gets `''`, so that has to be of the type. */
type NamedEvent<Name extends string, Data> = Omit<ServerSentEvent, 'event' | 'data'> &
  ('' extends Data ? { data?: Data } : { data: Data }) &
  (Name extends 'message' ? { event?: Name } : { event: Name })

/** A comment, a retry, or an id alone: no client dispatches it. */
type Undispatched = Omit<ServerSentEvent, 'event' | 'data'> & { event?: undefined, data?: undefined }

/** How the data of an event becomes text. */
export interface EventCodec {
  /** Throws FST_STREAM_INVALID_EVENT. */
  encode (name: string, data: unknown, isValidating: boolean): string
  /** True if the other refuses the same data, and makes the same text. */
  isSameAs (other: EventCodec | undefined): boolean
}

/** The events that a route or a channel names. */
export interface TypedEvents {
  readonly schemas: Readonly<Record<string, unknown>>
  /** By the name of the event, `message` being the one without. */
  readonly codecs: ReadonlyMap<string, EventCodec>
  /** Data is checked before it is serialized. */
  readonly isValidating: boolean
  /** The text of the data of an event. Throws FST_STREAM_UNKNOWN_EVENT and FST_STREAM_INVALID_EVENT. */
  encode (name: string, data: unknown): string
  /** Throws FST_STREAM_UNKNOWN_EVENT for a name that is none of these. */
  checkName (name: string): void
}

/** Turns the `data` of an event that is neither a string nor bytes into text. */
export type Serialize = (data: unknown) => string

/** The last event ID of a stream that must not be started again (`reconnect: false`); no event may carry it. */
export const END_ID = 'fastify-streaming:end'

const lineBreak = /\r\n|\r|\n/g
const fieldNames = new Set(['data', 'event', 'id', 'retry', 'comment'])
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Encodes one event. What dispatches nothing and carries no id (a comment, a retry) is lines without a blank line
 * after them: a blank line commits the last event ID of this connection, and would erase the position of a client
 * that has just come back.
 * Throws FST_STREAM_INVALID_EVENT or FST_STREAM_INVALID_FIELD; nothing is repaired. Where events are typed, it throws
 * what they throw, and data goes through their serializers instead.
 */
export function encodeEvent (item: unknown, serialize: Serialize, typed?: TypedEvents): string {
  if (typeof item === 'string') return `${dataLines(typed === undefined ? item : typed.encode('message', item))}\n`
  if (typeof item !== 'object' || item === null || types.isUint8Array(item)) {
    throw new FST_STREAM_INVALID_EVENT('a string or an event object; wrap the value as { data: value }', kindOf(item))
  }
  const { comment, event, id, retry, data } = item as ServerSentEvent
  let lines = ''
  let dispatches = false
  for (const key of Object.keys(item)) {
    if (!isEventField(key) && (item as Record<string, unknown>)[key] !== undefined) {
      throw new FST_STREAM_INVALID_EVENT(
        `an object with the keys data, event, id, retry and comment only; it has the key '${shown(key)}': wrap the value as { data: value }`, kindOf(item))
    }
  }
  if (comment !== undefined) lines += commentLines(comment)
  if (event !== undefined) {
    lines += `event: ${oneLine('event', event)}\n`
    dispatches = true
  }
  if (id !== undefined) {
    lines += `id: ${eventId(id)}\n`
    dispatches = true
  }
  if (retry !== undefined) lines += retryLine(retry)
  if (data !== undefined) {
    lines += dataLines(typed === undefined ? dataText(data, serialize) : typed.encode(event ?? 'message', data))
    dispatches = true
  } else if (event !== undefined) {
    // Without a data line clients would discard the event. What they get instead has to fit, too.
    lines += typed === undefined ? 'data: \n' : dataLines(typed.encode(event, ''))
  }
  if (lines === '') {
    // A promise that should have been awaited must not be able to kill the process.
    ignoreRejection(item)
    throw new FST_STREAM_INVALID_EVENT('an object with at least one of the keys data, event, id, retry and comment; wrap the value as { data: value }', kindOf(item))
  }
  return dispatches ? `${lines}\n` : lines
}

/** True for a name that an event may have as a key. */
export function isEventField (name: string): boolean {
  return fieldNames.has(name)
}

/** True for an item that is nothing but a comment, which is not counted as an event. */
export function isComment (item: unknown): boolean {
  if (typeof item === 'string') return false
  const { comment, event, id, retry, data } = item as ServerSentEvent
  return comment !== undefined && event === undefined && id === undefined && retry === undefined && data === undefined
}

/** The comment lines of a text; no blank line after them. */
export function commentLines (text: unknown): string {
  const comment = wellFormed('comment', text)
  return `: ${hasLineBreak(comment) ? comment.replace(lineBreak, '\n: ') : comment}\n`
}

/** The line that sets the client's reconnection time; no blank line after it. */
export function retryLine (milliseconds: unknown): string {
  if (!Number.isSafeInteger(milliseconds) || (milliseconds as number) < 0) {
    throw new FST_STREAM_INVALID_FIELD('retry', 'a non-negative safe integer of milliseconds', typeof milliseconds === 'number' ? shown(milliseconds) : kindOf(milliseconds))
  }
  return `retry: ${milliseconds as number}\n`
}

function dataLines (text: string): string {
  if (!text.isWellFormed()) {
    throw new FST_STREAM_INVALID_FIELD('data', 'well-formed Unicode (a character is cut in half)', kindOf(text))
  }
  return `data: ${hasLineBreak(text) ? text.replace(lineBreak, '\ndata: ') : text}\n`
}

function dataText (data: unknown, serialize: Serialize): string {
  if (typeof data === 'string') return data
  if (types.isUint8Array(data)) {
    try {
      return utf8.decode(data)
    } catch (cause) {
      throw withCause(new FST_STREAM_INVALID_EVENT('an object whose data is UTF-8 when it is bytes', kindOf(data)), cause)
    }
  }
  let text: unknown
  try {
    text = serialize(data)
  } catch (cause) {
    throw withCause(new FST_STREAM_INVALID_EVENT('an object whose data serializes', kindOf(data)), cause)
  }
  if (typeof text !== 'string') {
    ignoreRejection(text)
    throw new FST_STREAM_INVALID_EVENT(`an object whose data serializes to a string, not to ${kindOf(text)}`, kindOf(data))
  }
  return text
}

function eventId (id: unknown): string {
  if (typeof id === 'number') {
    if (!Number.isSafeInteger(id)) throw new FST_STREAM_INVALID_FIELD('id', 'a string or a safe integer', kindOf(id))
    return String(id)
  }
  const text = oneLine('id', id)
  if (text === END_ID) throw new FST_STREAM_INVALID_FIELD('id', 'another one: this one is reserved', text)
  return text
}

function oneLine (name: string, value: unknown): string {
  const text = wellFormed(name, value)
  if (hasLineBreak(text) || text.includes('\0')) {
    throw new FST_STREAM_INVALID_FIELD(name, 'free of line breaks and NUL', kindOf(text))
  }
  return text
}

function wellFormed (name: string, value: unknown): string {
  if (typeof value !== 'string') {
    throw new FST_STREAM_INVALID_FIELD(name, name === 'id' ? 'a string or a safe integer' : 'a string', kindOf(value))
  }
  if (!value.isWellFormed()) throw new FST_STREAM_INVALID_FIELD(name, 'well-formed Unicode', kindOf(value))
  return value
}

function hasLineBreak (text: string): boolean {
  return text.indexOf('\n') !== -1 || text.indexOf('\r') !== -1
}
