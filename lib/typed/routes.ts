/**
 * Routes with `schema.events`: found when they are declared, compiled when the app gets ready, at hand in each request.
 */
import type { FastifyInstance, FastifyReply, FastifySchema, RouteOptions } from 'fastify'
import { FST_STREAM_INVALID_SCHEMA } from '../errors.ts'
import { internalOf } from '../internals.ts'
import type { InstanceCompilers, OwnCompilers } from './compilers.ts'
import { documented } from './openapi.ts'
import { EventSchemas, type Owner } from './schemas.ts'

/** Where the configuration of a route has its events; the ESM and CJS builds share it. */
const kEvents = Symbol.for('fastify-streaming.events')

/** What Fastify keeps of a route. */
interface RouteContext extends OwnCompilers {
  schema?: FastifySchema
  config?: { method?: string | string[], url?: string, [kEvents]?: CompiledRoute }
}

interface CompiledRoute {
  events: EventSchemas | undefined
}

/**
 * Finds the routes of an app that name their events, and compiles these when the app gets ready. What cannot be a schema
 * whatever is still to come fails where the route is declared.
 */
export function findTypedRoutes (app: FastifyInstance, compilers: InstanceCompilers, isOurs: (instance: FastifyInstance) => boolean): void {
  const found: Array<{ instance: FastifyInstance, route: RouteOptions, compiled: CompiledRoute }> = []

  app.addHook('onRoute', function (route) {
    const events = eventsNamed(route.schema, route.method, route.url)
    if (events === undefined) {
      // What a hook has copied from another route has the configuration of that one.
      if (route.config !== undefined && kEvents in route.config) route.config = { ...route.config, [kEvents]: undefined } as RouteOptions['config']
      return
    }
    events.check(compilers.of(this, route as OwnCompilers))
    const compiled: CompiledRoute = { events: undefined }
    route.config = { ...route.config, [kEvents]: compiled } as RouteOptions['config']
    found.push({ instance: this, route, compiled })
  })

  app.addHook('onReady', async () => {
    for (const { instance, route, compiled } of found) {
      // Other hooks may have given the route another schema since.
      const events = eventsNamed(route.schema, route.method, route.url)
      events?.compile(compilers.of(instance, route as OwnCompilers))
      compiled.events = events
      // Fastify has compiled the route by now, and those who describe it have not asked yet.
      if (events !== undefined) route.schema = documented(route.schema as FastifySchema, events)
    }
  })

  onCompile(app, (instance, { schema, config, ...own }) => {
    if (config === undefined || config[kEvents] !== undefined || !isOurs(instance)) return
    const events = eventsNamed(schema, config.method, config.url)
    events?.compile(compilers.of(instance, own))
    config[kEvents] = { events }
    if (events !== undefined && instance.hasDecorator('swagger')) {
      instance.log.warn(`${String(config.method)} ${String(config.url)} was declared before the plugin was loaded, and its events are not described: await app.register() first`)
    }
  })
}

/** The events that the route of a reply names; undefined when it names none. Throws FST_STREAM_INVALID_SCHEMA. */
export function eventsOf (reply: FastifyReply): EventSchemas | undefined {
  const { config, schema, method, url } = reply.request.routeOptions
  const events = (config as RouteContext['config'])?.[kEvents]?.events
  if (events === undefined && eventsNamed(schema, method, url) !== undefined) {
    throw new FST_STREAM_INVALID_SCHEMA('*', `${String(method)} ${url}`, 'the route was declared before the plugin was loaded: await app.register() first')
  }
  return events
}

// A HEAD request has no events.
function eventsNamed (schema: FastifySchema | undefined, method: string | string[] | undefined, url: string | undefined): EventSchemas | undefined {
  if (schema?.events === undefined || method === 'HEAD') return undefined
  return new EventSchemas(schema.events, ownerOf(method, url))
}

function ownerOf (method: string | string[] | undefined, url: string | undefined): Owner {
  return { method: String(method), url: String(url) }
}

// A route that was declared before the plugin was loaded has run no hook of ours. This is what Fastify tells of each route
// just before it compiles the route's own schemas.
function onCompile (app: FastifyInstance, listener: (instance: FastifyInstance, context: RouteContext) => void): void {
  const notFound = internalOf(app, 'fastify.404') as { setContext (instance: FastifyInstance, context: RouteContext): void } | undefined
  if (notFound === undefined) return
  const { setContext } = notFound
  notFound.setContext = (...args) => {
    setContext.apply(notFound, args)
    listener(...args)
  }
}
