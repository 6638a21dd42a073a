/**
 * What the plugin adds to Fastify's types.
 */
import type { EventStreamOptions } from '../lib/options.ts'
import type { EventSource, EventSourceFunction, EventStream } from '../lib/stream/sse.ts'
import type { StreamOutcome } from '../lib/stream/lifecycle.ts'

declare module 'fastify' {
  interface FastifyReply {
    sse (source: EventSource | EventSourceFunction, options?: EventStreamOptions): Promise<StreamOutcome & void>
    sse (options?: EventStreamOptions): Promise<EventStream>
  }
}
