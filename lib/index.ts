/**
 * The plugin: options, decorations, and the only place that speaks to a Fastify instance.
 */
import type { FastifyError, FastifyInstance, FastifyReply } from 'fastify'
import fp from 'fastify-plugin'
import { FST_STREAM_NAME_TAKEN } from './errors.ts'
import { resolvePluginOptions, type StreamingOptions } from './options.ts'
import { Registration } from './registration.ts'
import { markSent, ownerOf, unmarkSent } from './stream/payload.ts'
import { sendEventStream } from './stream/sse.ts'
import '../types/fastify.ts'

export type { CommonOptions, EventStreamDefaults, EventStreamOptions, StreamingOptions } from './options.ts'
export type { EventItem, Serialize, ServerSentEvent } from './stream/encode.ts'
export type { EventSource, EventSourceFunction, EventStream } from './stream/sse.ts'
export type { StreamKind, StreamOutcome } from './stream/lifecycle.ts'
export type { StreamCloseMessage, StreamOpenMessage } from './diagnostics.ts'

const knownPlugins = ['@fastify/sse', 'fastify-sse-v2']

async function streaming (app: FastifyInstance, options: StreamingOptions): Promise<void> {
  const registration = new Registration(app, resolvePluginOptions(options))
  if (app.hasReplyDecorator('sse')) throw taken(app, 'reply.sse')
  app.decorateReply('sse', function (this: FastifyReply, ...args: unknown[]) {
    return sendEventStream(registration, this, args, registration.options) as never
  })
  app.addHook('onSend', (request, reply, payload, done) => {
    markSent(reply)
    done()
  })
  app.addHook('onError', (request, reply, error: FastifyError, done) => {
    unmarkSent(reply)
    ownerOf(reply)?.replacedByError(error)
    done()
  })
}

export default fp(streaming, { name: 'fastify-streaming', fastify: '5.x' })

function taken (app: FastifyInstance, name: string): Error {
  const by = knownPlugins.find(plugin => app.hasPlugin(plugin)) ?? 'another plugin'
  return new FST_STREAM_NAME_TAKEN(name, by)
}
