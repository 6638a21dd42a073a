import type { JsonSchemaToTsProvider } from '@fastify/type-provider-json-schema-to-ts'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyReply } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import { describe, expect, test } from 'tstyche'
import { Type } from 'typebox'
import { z } from 'zod'
import type { Channel, EventItem, EventStream } from '../lib/index.ts'

const app = Fastify()
const jsonApp = app.withTypeProvider<JsonSchemaToTsProvider>()
const typeboxApp = app.withTypeProvider<TypeBoxTypeProvider>()
const zodApp = app.withTypeProvider<ZodTypeProvider>()

const jsonEvents = {
  headline: { type: 'object', required: ['text'], properties: { text: { type: 'string' } }, additionalProperties: false },
  message: { type: 'string' }
} as const
const typeboxEvents = { headline: Type.Object({ text: Type.String() }), message: Type.String() }
const zodEvents = { headline: z.object({ text: z.string() }), message: z.string() }

interface Events { headline: { text: string }, message: string }

describe('JSON Schema', () => {
  const schema = { events: jsonEvents }

  test('compiles', () => {
    jsonApp.get('/', { schema }, (request, reply) => reply.sse(['hello', { event: 'headline', id: 1, data: { text: 'a' } }, { data: 'hello' }, { comment: 'c' }]))
    jsonApp.get('/', { schema }, (request, reply) => reply.sse(async function * (stream) {
      await stream.send({ event: 'headline', data: { text: 'a' } })
      yield 'hello'
      yield { event: 'headline', data: { text: 'a' } }
      yield { event: 'message', data: 'b' }
      yield { id: 'checkpoint' }
    }))
    jsonApp.get('/', { schema }, async (request, reply) => {
      const stream = await reply.sse({ retry: 1 })
      expect(stream).type.toBeAssignableTo<EventStream<Events>>()
      await stream.send({ event: 'headline', data: { text: 'a' } })
      await stream.send({ event: 'message' })
      expect(stream.send({ event: 'headlines', data: { text: 'a' } })).type.toRaiseError('Type \'"headlines"\' is not assignable to type')
    })
    jsonApp.route({ method: 'GET', url: '/', schema, handler: (request, reply) => reply.sse(['hello']) })
    // Literals are inferred without `as const`, too.
    jsonApp.get('/', { schema: { events: { count: { type: 'integer' } } } }, (request, reply) => reply.sse([{ event: 'count', data: 1 }]))
  })

  test('refuses an unknown name', () => {
    jsonApp.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headlines', data: { text: 'a' } })).type.toRaiseError('Type \'"headlines"\' is not assignable to type')
    }))
    jsonApp.get('/', { schema }, (request, reply) => {
      expect(reply.sse([{ event: 'headlines', data: { text: 'a' } }])).type.toRaiseError("'event' does not exist in type 'ChannelOf<{ headline: { text: string; }; message: string; }>'")
    })
  })

  test('refuses data of another type', () => {
    jsonApp.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headline', data: { text: 1 } })).type.toRaiseError("Type 'number' is not assignable to type 'string'")
      expect(stream.send({ event: 'headline' })).type.toRaiseError("Property 'data' is missing in type")
      expect(stream.send({ data: 1 })).type.toRaiseError("Type 'number' is not assignable to type 'string | { text: string; } | undefined'")
    }))
  })

  test('refuses items of a source', () => {
    jsonApp.get('/', { schema }, (request, reply) => {
      expect(reply.sse(numbers())).type.toRaiseError("Argument of type 'AsyncGenerator<number, void, unknown>' is not assignable to parameter of type 'AnySource<string | Undispatched")
      expect(reply.sse(async function * () { yield { event: 'headline', data: 1 } })).type.toRaiseError("is not assignable to type 'EventSourceFunction<{ headline: { text: string; }; message: string; }>'")
      expect(reply.sse(new Response(''))).type.toRaiseError("'Response' is not assignable to parameter of type")
    })
  })
})

describe('TypeBox', () => {
  const schema = { events: typeboxEvents }

  test('compiles', () => {
    typeboxApp.get('/', { schema }, (request, reply) => reply.sse(['hello', { event: 'headline', data: { text: 'a' } }]))
    typeboxApp.get('/', { schema }, async (request, reply) => reply.sse(async function * () { yield { event: 'headline', data: { text: 'a' } } }))
    typeboxApp.get('/', { schema: { ...schema, response: { 404: Type.Object({ error: Type.String() }) } } }, (request, reply) => reply.sse(['hello']))
  })

  test('refuses an unknown name', () => {
    typeboxApp.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headlines', data: { text: 'a' } })).type.toRaiseError('Type \'"headlines"\' is not assignable to type')
    }))
  })

  test('refuses data of another type', () => {
    typeboxApp.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headline', data: { text: 1 } })).type.toRaiseError("Type 'number' is not assignable to type 'string'")
      expect(reply.sse(numbers())).type.toRaiseError("Argument of type 'AsyncGenerator<number, void, unknown>' is not assignable to parameter of type 'AnySource<string | Undispatched")
    }))
  })
})

describe('Zod', () => {
  const schema = { events: zodEvents }

  test('compiles', () => {
    zodApp.get('/', { schema }, (request, reply) => reply.sse(['hello', { event: 'headline', data: { text: 'a' } }]))
    zodApp.get('/', { schema }, async (request, reply) => reply.sse(async function * () { yield { event: 'headline', data: { text: 'a' } } }))
    zodApp.get('/', { schema: { ...schema, response: { 404: z.object({ error: z.string() }) } } }, (request, reply) => reply.sse(['hello']))
  })

  test('refuses an unknown name', () => {
    zodApp.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headlines', data: { text: 'a' } })).type.toRaiseError('Type \'"headlines"\' is not assignable to type')
    }))
  })

  test('refuses data of another type', () => {
    zodApp.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headline', data: { text: 1 } })).type.toRaiseError("Type 'number' is not assignable to type 'string'")
      expect(reply.sse(numbers())).type.toRaiseError("Argument of type 'AsyncGenerator<number, void, unknown>' is not assignable to parameter of type 'AnySource<string | Undispatched")
    }))
  })
})

describe('no type provider', () => {
  const schema = { events: { headline: { type: 'object' }, done: {} } } as const

  test('names are known, data is not', () => {
    app.get('/', { schema }, (request, reply) => reply.sse([{ event: 'headline', data: { any: 'thing' } }, { event: 'done' }]))
    app.get('/', { schema }, (request, reply) => reply.sse(async stream => {
      expect(stream.send({ event: 'headlines', data: 1 })).type.toRaiseError('Type \'"headlines"\' is not assignable to type')
      expect(stream.send('hello')).type.toRaiseError("Argument of type 'string' is not assignable to parameter of type")
    }))
  })

  test('routes without events take any', () => {
    app.get('/', (request, reply) => reply.sse([{ event: 'x', data: 1 }, 'text', 1]))
    jsonApp.get('/', { schema: { querystring: { type: 'object', properties: { q: { type: 'string' } } } } as const }, (request, reply) => reply.sse([{ event: request.query.q, data: 1 }]))
  })

  test('routes whose schema is any take any', () => {
    const any: any = {}
    app.get('/', { schema: any }, (request, reply) => reply.sse(['x', { event: 'x', data: 1 }]))
    app.get('/', { schema: { ...any, tags: ['x'] } }, (request, reply) => reply.sse(['x']))
    jsonApp.get('/', { schema: JSON.parse('{}') }, async (request, reply) => { await (await reply.sse()).send('x') })
  })

  test('the reply of a route with events is a reply', () => {
    const helper = (reply: FastifyReply) => reply.header('x', 'y')
    jsonApp.get('/', { schema: { events: jsonEvents } }, (request, reply) => {
      helper(reply)
      return reply.sse(['hello'])
    })
  })
})

describe('channels', () => {
  test('have the events of their schemas', () => {
    const news = jsonApp.streaming.channel('news', { events: jsonEvents })
    expect(news).type.toBeAssignableTo<Channel<Events>>()
    news.publish({ event: 'headline', data: { text: 'a' } })
    news.publish('hello')
    expect(news.publish({ event: 'headlines', data: { text: 'a' } })).type.toRaiseError('Type \'"headlines"\' is not assignable to type')
    expect(news.publish({ event: 'headline', data: { text: 1 } })).type.toRaiseError("Type 'number' is not assignable to type 'string'")
    typeboxApp.streaming.channel('news', { events: typeboxEvents }).publish({ event: 'headline', data: { text: 'a' } })
    expect(typeboxApp.streaming.channel('news', { events: typeboxEvents }).publish({ event: 'headline', data: { text: 1 } })).type.toRaiseError("Type 'number' is not assignable to type 'string'")
    zodApp.streaming.channel('news', { events: zodEvents, history: { events: 1 } }).publish({ event: 'headline', data: { text: 'a' } })
    expect(zodApp.streaming.channel('news', { events: zodEvents }).publish({ event: 'headline', data: { text: 1 } })).type.toRaiseError("Type 'number' is not assignable to type 'string'")
  })

  test('tell their schemas, which a route may have, too', () => {
    const news = jsonApp.streaming.channel('news', { events: jsonEvents })
    expect(news.events).type.toBe<typeof jsonEvents>()
    jsonApp.get('/', { schema: { events: news.events } }, (request, reply) => reply.sse(news))
    expect(app.streaming.channel('news')).type.not.toHaveProperty('events')
  })

  test('are sources where the route has all their events', () => {
    const { headline } = jsonEvents
    const news = jsonApp.streaming.channel('news', { events: jsonEvents })
    jsonApp.get('/', { schema: { events: jsonEvents } }, (request, reply) => reply.sse(news))
    jsonApp.get('/', { schema: { events: jsonEvents } }, (request, reply) => reply.sse([jsonApp.streaming.channel('news', { events: { headline } })], { replay: 1 }))
    jsonApp.get('/', { schema: { events: jsonEvents } }, (request, reply) => {
      expect(reply.sse(jsonApp.streaming.channel('news', { events: { other: headline } }))).type.toRaiseError("Type '\"other\"' is not assignable to type")
      expect(reply.sse(jsonApp.streaming.channel('news', { events: { headline: { type: 'number' } } }))).type.toRaiseError("Type 'number' is not assignable to type '{ text: string; }'")
    })
  })

  test('are no sources of such a route when they name no events', () => {
    jsonApp.get('/', { schema: { events: jsonEvents } }, (request, reply) => {
      expect(reply.sse(app.streaming.channel('news'))).type.toRaiseError("Property 'events' is missing in type 'Channel<Record<string, unknown>>'")
      expect(reply.sse(app.streaming.channel<Events>('news'))).type.toRaiseError("Property 'events' is missing in type 'Channel<Events>'")
    })
  })

  test('tell a filter what their events are', () => {
    const news = jsonApp.streaming.channel('news', { events: jsonEvents })
    jsonApp.get('/', { schema: { events: jsonEvents } }, (request, reply) => reply.sse(news, {
      filter: item => {
        expect(item.event).type.toBe<'headline' | 'message'>()
        if (item.event === 'message') expect(item.json()).type.toBe<unknown>()
        return item.event === 'headline' && item.json().text === 'a'
      }
    }))
    app.get('/', (request, reply) => reply.sse(news, { filter: ({ event, json }) => event === 'x' && json() === 1 }))
  })
})

test('an item may be declared', () => {
  expect<EventItem<Events>>().type.toBeAssignableFrom({ event: 'headline', data: { text: 'a' } } as const)
  expect<EventItem<Events>>().type.toBeAssignableFrom('hello')
  expect<EventItem<Events>>().type.not.toBeAssignableFrom({ event: 'other', data: 1 } as const)
  expect<EventItem>().type.toBeAssignableFrom({ event: 'other', data: 1 } as const)
  expect<EventItem<{ mood: 'good' | 'bad', message: 'yes' | 'no' }>>().type.not.toBeAssignableFrom('maybe')
})

async function * numbers () {
  yield 1
}
