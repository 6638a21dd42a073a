/**
 * Channels as the source of an event stream.
 */
import type { FastifyRequest } from 'fastify'
import { publishGap } from '../diagnostics.ts'
import { FST_STREAM_INVALID_SOURCE, kindOf, shown } from '../errors.ts'
import { defaultLag, type ReadOptions } from '../options.ts'
import { retryLine, type TypedEvents } from '../stream/encode.ts'
import type { LiveReader, LiveTarget } from '../stream/live.ts'
import { EventChannel } from './channel.ts'
import type { Cursor, LagPolicy, Subscriber } from './cursor.ts'
import { gapBlock, positionBlock, type Batch, type Frame, type Gap } from './frame.ts'
import { formatPosition, joinPositions, parsePositions } from './position.ts'
import { passes, startOf } from './reading.ts'

const mostChannels = 16

/**
 * The channels that a source is; undefined when it is none. Throws FST_STREAM_INVALID_SOURCE for an array that cannot be
 * followed, and for a channel that may have other events than those of the route, if it names any, or has looser rules.
 */
export function channelsOf (source: unknown, typed?: TypedEvents): EventChannel[] | undefined {
  const channels = listOf(source)
  if (typed === undefined) return channels
  for (const channel of channels ?? []) {
    // Its events are text by now: that they are checked and serialized is for the channel to see to.
    const problem = looseness(channel.typed, typed)
    if (problem !== undefined) throw new FST_STREAM_INVALID_SOURCE(problem, `the channel ${channel.name}`)
  }
  return channels
}

/** What a channel would have to be for the route to vouch for its events; undefined when it is. */
function looseness (channel: TypedEvents | undefined, { codecs, isValidating }: TypedEvents): string | undefined {
  const names = [...channel?.codecs.keys() ?? []]
  if (channel === undefined || names.some(name => !codecs.has(name))) {
    return `a channel that names its events, all of them among those of the route (${[...codecs.keys()].join(', ')})`
  }
  const other = names.find(name => codecs.get(name)?.isSameAs(channel.codecs.get(name)) !== true)
  if (other !== undefined) return `a channel that has the schema of the route for '${shown(other)}', and compilers and shared schemas as the route has them`
  return isValidating && !channel.isValidating ? 'a channel that checks its events, as the route does' : undefined
}

function listOf (source: unknown): EventChannel[] | undefined {
  if (source instanceof EventChannel) return [source]
  if (!Array.isArray(source) || !source.some(item => item instanceof EventChannel)) return undefined
  const channels = new Set(source)
  for (const item of channels) {
    if (!(item instanceof EventChannel)) throw new FST_STREAM_INVALID_SOURCE('an array of channels only', kindOf(item))
  }
  if (channels.size > mostChannels) throw new FST_STREAM_INVALID_SOURCE(`at most ${mostChannels} channels`, `${channels.size} channels`)
  return [...channels] as EventChannel[]
}

/**
 * Begins to write what is published on the channels to a stream, which fails over an event that is none of the route's.
 * Throws FST_STREAM_CLOSED.
 */
export function followChannels (channels: EventChannel[], target: LiveTarget, typed?: TypedEvents): LiveReader {
  for (const channel of channels) channel.checkOpen()
  return new ChannelReader(channels, target, typed)
}

interface Part {
  cursor: Cursor
  channel: EventChannel
  /** The client's position in this channel, as it has it; undefined when it has none. */
  position: string | undefined
  gap: Gap | undefined
}

class ChannelReader implements LiveReader, Subscriber {
  readonly lag: LagPolicy
  readonly #target: LiveTarget
  readonly #typed: TypedEvents | undefined
  readonly #filter: ReadOptions['filter']
  readonly #request: FastifyRequest
  readonly #parts: Part[]
  #toStart: number
  #isOver = false
  /** The client's position is older than that of the stream. */
  #isAhead = false

  constructor (channels: EventChannel[], target: LiveTarget, typed: TypedEvents | undefined) {
    const { options: { lag = defaultLag, filter, replay }, resumesAfter } = target
    this.lag = lag
    this.#target = target
    this.#typed = typed
    this.#filter = filter
    this.#request = target.request
    this.#toStart = channels.length
    const brought = resumesAfter === undefined ? undefined : parsePositions(resumesAfter)
    this.#parts = channels.map(channel => {
      const id = brought?.get(channel.tag)
      return { channel, cursor: channel.follow(this), position: id === undefined ? undefined : formatPosition(id, channel.tag), gap: undefined }
    })
    for (const { cursor, channel } of this.#parts) void cursor.start(startOf(channel.tag, brought, replay))
  }

  get isFiltered (): boolean {
    return this.#filter !== undefined
  }

  get hasRoom (): boolean {
    return this.#target.hasRoom
  }

  room (): Promise<boolean> {
    return this.#target.room()
  }

  checkpoint (): string | undefined {
    if (!this.#isAhead) return undefined
    this.#isAhead = false
    return positionBlock(this.#position)
  }

  release (): void {
    this.#isOver = true
    for (const { cursor } of this.#parts) cursor.release()
  }

  started (cursor: Cursor, gap: Gap | undefined): void {
    this.#part(cursor).gap = gap
    if (--this.#toStart > 0) return
    const gaps = this.#parts.filter(part => part.gap !== undefined)
    // One that has a gap keeps its old position until the client is told.
    for (const part of this.#parts) if (part.gap === undefined) part.position = part.cursor.wirePosition
    if (gaps.length === 0) this.#target.write(positionBlock(this.#position), 0)
    for (const part of gaps) this.missed(part.cursor, part.gap as Gap)
    for (const part of this.#parts) part.cursor.go()
  }

  wants (frame: Frame): boolean {
    try {
      return passes(this.#filter, frame, this.#request)
    } catch (error) {
      this.#target.end('failed', error)
      return false
    }
  }

  deliver (cursor: Cursor, batch: Batch): void {
    const isShared = this.#filter === undefined && this.#parts.length === 1 && (this.#typed === undefined || this.#knowsAll(batch))
    if (isShared) {
      const part = this.#parts[0] as Part
      part.position = batch.last.id
      this.#target.write(batch.joined, batch.events)
      return
    }
    this.#deliverOwn(this.#part(cursor), batch.frames)
  }

  flush (): void {
    this.#target.flush()
  }

  missed (cursor: Cursor, gap: Gap): void {
    const part = this.#part(cursor)
    part.position = cursor.wirePosition
    part.channel.countGap()
    publishGap(cursor.name, gap, this.#request)
    this.#isAhead = false
    this.#target.write(gapBlock(this.#position, cursor.name, gap), 0)
  }

  lagged (): void {
    this.#target.end('lagged')
  }

  closed (retry: (() => number) | undefined): void {
    if (retry !== undefined) this.#target.write(retryLine(retry()), 0)
    this.#target.end('closed')
  }

  /** Of all its channels. */
  get #position (): string {
    return joinPositions(this.#parts.map(({ position }) => position).filter(position => position !== undefined))
  }

  #part (cursor: Cursor): Part {
    return this.#parts.find(part => part.cursor === cursor) as Part
  }

  #knowsAll ({ frames }: Batch): boolean {
    const { codecs } = this.#typed as TypedEvents
    return frames.every(frame => !frame.isEvent || codecs.has(frame.view.event))
  }

  #deliverOwn (part: Part, frames: readonly Frame[]): void {
    let blocks = ''
    let events = 0
    for (const frame of frames) {
      try {
        part.position = frame.id
        this.#isAhead = !passes(this.#filter, frame, this.#request)
        if (this.#typed !== undefined && !this.#isAhead) checkName(frame, this.#typed)
      } catch (error) {
        this.#target.write(blocks, events)
        this.#target.end('failed', error)
        return
      }
      if (this.#isOver) return
      if (this.#isAhead) continue
      blocks += frame.block(this.#position)
      if (frame.isEvent) events++
    }
    this.#target.write(blocks, events)
  }
}

// The log may have what was published by others, or before the channel had events.
function checkName (frame: Frame, typed: TypedEvents): void {
  if (frame.isEvent) typed.checkName(frame.view.event)
}
