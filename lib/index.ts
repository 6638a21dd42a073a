/**
 * The plugin: options and decorations.
 */
import type { FastifyError, FastifyInstance, FastifyReply } from 'fastify'
import fp from 'fastify-plugin'
import type { CompileEvents } from './channel/channel.ts'
import { Channels } from './channel/channels.ts'
import { FST_STREAM_NAME_TAKEN, withCause } from './errors.ts'
import { resolvePluginOptions, type ChannelOptions, type StreamingOptions } from './options.ts'
import { Registration } from './registration.ts'
import { EventSchemas } from './typed/schemas.ts'
import { InstanceCompilers } from './typed/compilers.ts'
import { markSentOnSend, ownerOf, unmarkSent } from './stream/payload.ts'
import { sendEventStream } from './stream/sse.ts'
import { sendStreamWriter } from './stream/writer.ts'
import { findTypedRoutes } from './typed/routes.ts'
import '../types/fastify.ts'

export { memoryBroker } from './brokers/memory.ts'
export { createChannels } from './channel/channels.ts'
export { transformObject } from './typed/openapi.ts'
export type { Broker, EventId, From, History, Page, PublishRequest, Stored, Tail } from './brokers/broker.ts'
export type { Channel, ChannelItem, PublishedEvent, TypedChannel } from './channel/channel.ts'
export type { ChannelLog, ChannelStats, CreateChannelsOptions, StandaloneChannels } from './channel/channels.ts'
export type { LagPolicy } from './channel/cursor.ts'
export type { ChannelEvent, Gap, GapReason } from './channel/frame.ts'
export type {
  ChannelOptions, CloseOptions, CommonOptions, EventStreamDefaults, EventStreamOptions, PublishOptions, ReadOptions, ShutdownOptions,
  StreamingOptions, StreamWriterOptions, SubscribeOptions
} from './options.ts'
export type { StreamingStats } from './registration.ts'
export type { EventItem, Serialize, ServerSentEvent } from './stream/encode.ts'
export type { EventSource, EventSourceFunction, EventStream } from './stream/sse.ts'
export type { ChunkSource, StreamWriter, StreamWriterCallback } from './stream/writer.ts'
export type { StreamKind, StreamOutcome } from './stream/lifecycle.ts'
export type { StreamCloseMessage, StreamGapMessage, StreamOpenMessage } from './diagnostics.ts'

/** Other plugins that make a `reply.sse`; the first one at each call of its routes, so that no decorator tells. */
const otherPlugins = ['@fastify/sse', 'fastify-sse-v2']
// Of the global registry: the ESM and the CJS copy of this package are one plugin.
const kRegistered: unique symbol = Symbol.for('fastify-streaming.registered')

async function streaming (app: FastifyInstance, options: StreamingOptions): Promise<void> {
  const { sse, writer, limits, broker } = resolvePluginOptions(options)
  const channels = new Channels(broker, sse.serialize, app.log)
  const registration = new Registration(app, limits, channels)
  refuseOtherPlugins(app)
  let isStarting = true
  app.addHook('onReady', async () => {
    isStarting = false
    refuseOtherPlugins(app)
  })
  decorate(app, 'reply.sse', () => app.decorateReply('sse', function (this: FastifyReply, ...args: unknown[]) {
    return sendEventStream(registration, this, args, sse) as never
  }))
  decorate(app, 'reply.streamWriter', () => app.decorateReply('streamWriter', function (this: FastifyReply, ...args: unknown[]) {
    return sendStreamWriter(registration, this, args, writer) as never
  }))
  const compilers = new InstanceCompilers()
  const views = new WeakMap<FastifyInstance, FastifyInstance['streaming']>()
  // One for each context: it has compilers of its own.
  decorate(app, 'app.streaming', () => app.decorate('streaming', {
    getter (this: FastifyInstance) {
      let view = views.get(this)
      if (view !== undefined) return view
      const compile = compilerOf(this, compilers, sse.validate)
      view = {
        get open () { return registration.open },
        stats: () => registration.stats(),
        channel: (name: string, options?: ChannelOptions) => channels.channel(name, options, compile, isStarting) as never
      }
      views.set(this, view)
      return view
    }
  }))
  app.decorate(kRegistered, registration)
  findTypedRoutes(app, compilers, instance => (instance as { [kRegistered]?: Registration })[kRegistered] === registration)
  app.addHook('preClose', async () => await registration.shutDown())
  app.addHook('onClose', async () => await channels.close())
  app.addHook('onSend', markSentOnSend)
  app.addHook('onError', (request, reply, error: FastifyError, done) => {
    unmarkSent(reply)
    ownerOf(reply)?.replacedByError(error)
    done()
  })
}

export default fp(streaming, { name: 'fastify-streaming', fastify: '5.x' })

/** What compiles the events of a channel that this context names first. */
function compilerOf (app: FastifyInstance, compilers: InstanceCompilers, isValidating: boolean): CompileEvents {
  return (name, { events, validate = isValidating }) => {
    const schemas = new EventSchemas(events, { method: '', url: `the channel '${name}'` })
    schemas.compile(compilers.of(app))
    return validate ? schemas.checked : schemas.unchecked
  }
}

function refuseOtherPlugins (app: FastifyInstance): void {
  // What an outer context has registered is not in the way: a context has its own decorators.
  const outer = Object.getPrototypeOf(app) as Partial<FastifyInstance>
  const other = otherPlugins.find(name => app.hasPlugin(name) && outer.hasPlugin?.(name) !== true)
  if (other !== undefined) throw new FST_STREAM_NAME_TAKEN('reply.sse', other)
}

function decorate (app: FastifyInstance, name: string, add: () => void): void {
  try {
    add()
  } catch (cause) {
    const by = Object.hasOwn(app, kRegistered) ? 'fastify-streaming, which is registered here already' : 'another plugin'
    throw withCause(new FST_STREAM_NAME_TAKEN(name, by), cause)
  }
}
