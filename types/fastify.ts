/**
 * What the plugin adds to Fastify's types.
 */
import type { Channel } from '../lib/channel/channel.ts'
import type { ChannelOptions, EventStreamOptions, StreamWriterOptions } from '../lib/options.ts'
import type { StreamingStats } from '../lib/registration.ts'
import type { EventSource, EventSourceFunction, EventStream } from '../lib/stream/sse.ts'
import type { StreamOutcome } from '../lib/stream/lifecycle.ts'
import type { ChunkSource, StreamWriterCallback } from '../lib/stream/writer.ts'

declare module 'fastify' {
  interface FastifyInstance {
    streaming: {
      /** The number of open streams of this registration. */
      readonly open: number
      /** Counts of this registration, exact at any time. */
      stats (): StreamingStats
      /**
       * The channel of that name; the same name gives the same one. Throws FST_STREAM_INVALID_OPTION, also for options
       * that contradict those that it has.
       */
      channel<Events extends object = Record<string, unknown>> (name: string, options?: ChannelOptions): Channel<Events>
    }
  }

  interface FastifyReply {
    sse (source: EventSource | EventSourceFunction, options?: EventStreamOptions): Promise<StreamOutcome & void>
    sse (options?: EventStreamOptions): Promise<EventStream & void>
    streamWriter (source: StreamWriterCallback | ChunkSource, options?: StreamWriterOptions): Promise<StreamOutcome & void>
  }
}
