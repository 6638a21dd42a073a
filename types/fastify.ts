/**
 * What the plugin adds to Fastify's types.
 */
import type { Channel, TypedChannel } from '../lib/channel/channel.ts'
import type { ChannelOptions, EventStreamOptions, StreamWriterOptions } from '../lib/options.ts'
import type { StreamingStats } from '../lib/registration.ts'
import type { EventSource, EventSourceFunction, EventStream } from '../lib/stream/sse.ts'
import type { StreamOutcome } from '../lib/stream/lifecycle.ts'
import type { ChunkSource, StreamWriterCallback } from '../lib/stream/writer.ts'

/** The data of each event that `Schemas` names, as a type provider has it; of any name where they name none. */
export type EventsOf<TypeProvider, Schemas> = string extends keyof Schemas
  ? Record<string, unknown>
  // Where the schema of a route is any: to ask that there would make its reply no `FastifyReply`.
  : [keyof Schemas] extends [never] ? Record<string, unknown> : { [Name in keyof Schemas & string]: DataOf<TypeProvider, Schemas[Name]> }

/** As Fastify has the data of a response. */
type DataOf<TypeProvider, Schema> = (TypeProvider & { readonly schema: Schema }) extends { readonly serializer: infer Data } ? Data : unknown

/** The events of a route with that schema. */
type RouteEvents<TypeProvider, Schema> = Schema extends { events: infer Schemas extends object }
  ? EventsOf<TypeProvider, Schemas>
  : Record<string, unknown>

// Declarations of one interface name the same type parameters, also those that only Fastify's uses.
/* eslint-disable @typescript-eslint/no-unused-vars */
declare module 'fastify' {
  interface FastifySchema {
    /** The schema of the data of each event of `reply.sse()`; `message` is the event without a name. */
    events?: unknown
  }

  interface FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider> {
    streaming: {
      /** The number of open streams of this registration. */
      readonly open: number
      /** Counts of this registration, exact at any time. */
      stats (): StreamingStats
      /**
       * The channel of that name; the same name gives the same one. Throws FST_STREAM_INVALID_OPTION, also for options
       * that contradict those that it has, and FST_STREAM_INVALID_SCHEMA.
       */
      channel<const Schemas extends Record<string, unknown>> (
        name: string, options: ChannelOptions & { events: Schemas }
      ): TypedChannel<EventsOf<TypeProvider, Schemas>, Schemas>
      channel<Events extends object = Record<string, unknown>> (name: string, options?: ChannelOptions): Channel<Events>
    }
  }

  interface FastifyReply<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider> {
    sse (
      source: EventSource<RouteEvents<TypeProvider, SchemaCompiler>> | EventSourceFunction<RouteEvents<TypeProvider, SchemaCompiler>>,
      options?: EventStreamOptions<RouteEvents<TypeProvider, SchemaCompiler>>
    ): Promise<StreamOutcome & void>
    sse (options?: EventStreamOptions): Promise<EventStream<RouteEvents<TypeProvider, SchemaCompiler>> & void>
    streamWriter (source: StreamWriterCallback | ChunkSource, options?: StreamWriterOptions): Promise<StreamOutcome & void>
  }
}
