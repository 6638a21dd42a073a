/**
 * The `diagnostics_channel`s of this package; nothing is made for them unless somebody listens.
 */
import diagnosticsChannel from 'node:diagnostics_channel'
import type { FastifyReply, FastifyRequest } from 'fastify'
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

const openChannel = diagnosticsChannel.channel('fastify-streaming:open')
const closeChannel = diagnosticsChannel.channel('fastify-streaming:close')

export function publishOpen (kind: StreamKind, reply: FastifyReply): void {
  if (openChannel.hasSubscribers) openChannel.publish({ request: reply.request, reply, kind } satisfies StreamOpenMessage)
}

export function publishClose (kind: StreamKind, reply: FastifyReply, outcome: StreamOutcome): void {
  if (closeChannel.hasSubscribers) closeChannel.publish({ request: reply.request, reply, kind, outcome } satisfies StreamCloseMessage)
}
