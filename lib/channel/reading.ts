/**
 * What a stream and an iterator ask of a channel in the same way.
 */
import type { FastifyRequest } from 'fastify'
import { FST_STREAM_INVALID_OPTION, kindOf } from '../errors.ts'
import type { ReadOptions } from '../options.ts'
import { ignoreRejection, isPromiseLike } from '../stream/promise-like.ts'
import type { Start } from './cursor.ts'
import type { Frame } from './frame.ts'
import { parsePositions } from './position.ts'

/** Where to start in the channel of a tag: at `position` ('' for one that cannot be read), else as `replay` says. */
export function startOf (tag: string, position: string | undefined, replay: ReadOptions['replay']): Start {
  if (position !== undefined) {
    const from = parsePositions(position).get(tag)
    return from === undefined ? { from: 'earliest', isUnknown: true } : { from }
  }
  if (replay === undefined) return { from: 'live' }
  return replay === 'all' ? { from: 'earliest' } : { count: replay }
}

/** Asks a filter, if there is one, about what clients dispatch. Throws what it throws, and FST_STREAM_INVALID_OPTION for one that is async. */
export function passes (filter: ReadOptions['filter'], frame: Frame, request: FastifyRequest | undefined): boolean {
  if (filter === undefined || !frame.isEvent) return true
  const result: unknown = filter(frame.view, request as FastifyRequest)
  if (isPromiseLike(result)) {
    ignoreRejection(result)
    throw new FST_STREAM_INVALID_OPTION('filter', 'a function that returns true or false', kindOf(result))
  }
  return Boolean(result)
}
