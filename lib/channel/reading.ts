/**
 * What a stream and an iterator ask of a channel in the same way.
 */
import type { FastifyRequest } from 'fastify'
import type { EventId } from '../brokers/broker.ts'
import { FST_STREAM_INVALID_OPTION, kindOf } from '../errors.ts'
import type { ReadOptions } from '../options.ts'
import { ignoreRejection, isPromiseLike } from '../stream/promise-like.ts'
import type { Start } from './cursor.ts'
import type { Frame } from './frame.ts'

/** Where to start in the channel of a tag: at the position among those that were brought, if any were, else as `replay` says. */
export function startOf (tag: string, brought: Map<string, EventId> | undefined, replay: ReadOptions['replay']): Start {
  if (brought !== undefined) {
    const from = brought.get(tag)
    return from === undefined ? { from: 'earliest', isUnknown: true } : { from }
  }
  if (replay === undefined) return { from: 'live' }
  return { from: replay === 'all' ? 'earliest' : replay }
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
