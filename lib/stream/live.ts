/**
 * What a source that writes by itself is given, and gives: a stream on one side, channels on the other.
 */
import type { FastifyRequest } from 'fastify'
import type { ReadOptions } from '../options.ts'
import type { SharedChunk } from './framing.ts'
import type { StreamOutcome } from './lifecycle.ts'

/** The stream, for who writes to it. */
export interface LiveTarget {
  readonly request: FastifyRequest
  readonly options: ReadOptions
  /** Where the client stopped; '' when that cannot be read, undefined when it brings nothing. */
  readonly resumesAfter: string | undefined
  readonly hasRoom: boolean
  /** Resolves `true` when there is room, `false` when the stream has ended. */
  room (): Promise<boolean>
  /** Writes whole blocks, which leave by the end of the turn. */
  write (blocks: string | SharedChunk, events: number): void
  /** What was written leaves now. */
  flush (): void
  /** Ends the stream. */
  end (reason: StreamOutcome['reason'], error?: unknown): void
}

/** Who writes, for the stream. */
export interface LiveReader {
  /** It leaves out events, so that the client's position may fall behind. */
  readonly isFiltered: boolean
  /** The block that moves the client's position to that of the stream, when it is behind. */
  checkpoint (): string | undefined
  /** The stream has ended. */
  release (): void
}
