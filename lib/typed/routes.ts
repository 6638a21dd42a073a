/**
 * Routes with `schema.events`: found when they are declared, compiled when the app gets ready, at hand in each request.
 */
import type { FastifyInstance, FastifyReply, FastifySchema, RouteOptions } from 'fastify'
import { FST_STREAM_INVALID_SCHEMA } from '../errors.ts'
import { internalOf } from '../internals.ts'
import { documented } from './openapi.ts'
import { compilersOf, EventSchemas, type OwnCompilers } from './schemas.ts'

/** Where the configuration of a route has its events; the ESM and CJS builds share it. */
const kEvents = Symbol.for('fastify-streaming.events')

/** What Fastify keeps of a route. */
interface RouteContext extends OwnCompilers {
  schema?: FastifySchema
  config?: { method?: string | string[], url?: string, [kEvents]?: EventSchemas }
}

/**
 * Finds the routes of an app that name their events. A schema that cannot be used fails where the route is declared; one
 * that may still find its compiler, or what it refers to, fails when the app gets ready.
 */
export function findTypedRoutes (app: FastifyInstance, isOurs: (instance: FastifyInstance) => boolean): void {
  const found: Array<{ instance: FastifyInstance, route: RouteOptions, events: EventSchemas }> = []

  app.addHook('onRoute', function (route) {
    const events = eventsNamed(route.schema, route.method, route.url)
    if (events === undefined) return
    events.check(compilersOf(this, route as OwnCompilers))
    route.config = { ...route.config, [kEvents]: events } as RouteOptions['config']
    found.push({ instance: this, route, events })
  })

  app.addHook('onReady', async () => {
    for (const { instance, route, events } of found) {
      events.compile(compilersOf(instance, route as OwnCompilers))
      // Fastify has compiled the route by now, and those who describe it have not asked yet.
      route.schema = documented(route.schema as FastifySchema, events)
    }
  })

  onCompile(app, (instance, { schema, config, ...own }) => {
    if (config === undefined || config[kEvents] !== undefined || !isOurs(instance)) return
    const events = eventsNamed(schema, config.method, config.url)
    events?.compile(compilersOf(instance, own))
    config[kEvents] = events
  })
}

/** The events that the route of a reply names; undefined when it names none. Throws FST_STREAM_INVALID_SCHEMA. */
export function eventsOf (reply: FastifyReply): EventSchemas | undefined {
  const { config, schema, method, url } = reply.request.routeOptions
  const events = (config as RouteContext['config'])?.[kEvents]
  if (events === undefined && eventsNamed(schema, method, url) !== undefined) {
    throw new FST_STREAM_INVALID_SCHEMA('*', ownerName(method, url), 'the route was declared before the plugin was loaded: await app.register() first')
  }
  return events
}

// A HEAD request has no events.
function eventsNamed (schema: FastifySchema | undefined, method: string | string[] | undefined, url: string | undefined): EventSchemas | undefined {
  if (schema?.events === undefined || method === 'HEAD') return undefined
  return new EventSchemas(schema.events, ownerName(method, url))
}

function ownerName (method: string | string[] | undefined, url: string | undefined): string {
  return `${String(method)} ${String(url)}`
}

// A route that was declared before the plugin was loaded has run no hook of ours. This is what Fastify tells of each route
// just before it compiles the route's own schemas.
function onCompile (app: FastifyInstance, listener: (instance: FastifyInstance, context: RouteContext) => void): void {
  const notFound = internalOf(app, 'fastify.404') as { setContext (instance: FastifyInstance, context: RouteContext): void } | undefined
  if (notFound === undefined) return
  const { setContext } = notFound
  notFound.setContext = (instance, context) => {
    setContext(instance, context)
    listener(instance, context)
  }
}
