/**
 * The `diagnostics_channel`s of this package; nothing is made for them unless somebody listens.
 */
import diagnosticsChannel from 'node:diagnostics_channel'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Gap } from './channel/frame.ts'
import type { StreamKind, StreamOutcome } from './stream/lifecycle.ts'

/** Published on `fastify-streaming:open` when a stream has its head. */
export interface StreamOpenMessage {
  request: FastifyRequest
  reply: FastifyReply
  kind: StreamKind
}

/** Published on `fastify-streaming:close` when a stream is over, once for each `fastify-streaming:open`. */
export interface StreamCloseMessage extends StreamOpenMessage {
  outcome: StreamOutcome
}

/** Published on `fastify-streaming:gap` when a subscriber is told that events are lost for it. */
export interface StreamGapMessage extends Gap {
  channel: string
  /** Of the stream that is told; undefined for an iterator. */
  request: FastifyRequest | undefined
}

const openChannel = diagnosticsChannel.channel('fastify-streaming:open')
const closeChannel = diagnosticsChannel.channel('fastify-streaming:close')
const gapChannel = diagnosticsChannel.channel('fastify-streaming:gap')

export function publishOpen (kind: StreamKind, reply: FastifyReply): void {
  if (openChannel.hasSubscribers) openChannel.publish({ request: reply.request, reply, kind } satisfies StreamOpenMessage)
}

export function publishClose (kind: StreamKind, reply: FastifyReply, outcome: StreamOutcome): void {
  if (closeChannel.hasSubscribers) closeChannel.publish({ request: reply.request, reply, kind, outcome } satisfies StreamCloseMessage)
}

export function publishGap (channel: string, gap: Gap, request: FastifyRequest | undefined): void {
  if (gapChannel.hasSubscribers) gapChannel.publish({ ...gap, channel, request } satisfies StreamGapMessage)
}
