import { Readable } from 'node:stream'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import { describe, expect, test } from 'tstyche'
import { Type } from 'typebox'
import { z } from 'zod'
import streaming, {
  type EventStream, type EventStreamOptions, type StreamCloseMessage, type StreamingOptions, type StreamOpenMessage, type StreamOutcome
} from '../lib/index.ts'

const app = Fastify()
declare const request: FastifyRequest
declare const reply: FastifyReply

async function * source () {
  yield 'one'
  yield { event: 'x', id: 1, data: { a: 1 } }
}

describe('return reply.sse() compiles', () => {
  test('in sync and async handlers', () => {
    app.get('/', (request, reply) => reply.sse(source()))
    app.get('/', (request, reply) => { return reply.sse(source(), { reconnect: false }) })
    app.get('/', async (request, reply) => reply.sse(source()))
    app.get('/', async (request, reply) => { await reply.sse(source()) })
    app.get('/', async (request, reply) => { const stream = await reply.sse(); await stream.send('one') })
    app.get('/', (request, reply) => { reply.sse(source()) })
    app.route({ method: 'GET', url: '/', handler: (request, reply) => reply.sse(source()) })
    app.route({ method: 'GET', url: '/', handler: async (request, reply) => reply.sse(source()) })
  })

  test('with a Reply type', () => {
    app.get<{ Reply: { answer: number } }>('/', (request, reply) => reply.sse(source()))
    app.get<{ Reply: { answer: number } }>('/', async (request, reply) => reply.sse(source()))
    app.get<{ Reply: { 200: string, '4xx': { error: string } } }>('/', async (request, reply) => {
      if (request.headers.accept === undefined) return reply.code(400).send({ error: 'accept what?' })
      return reply.sse(source())
    })
    app.route<{ Reply: string }>({ method: 'GET', url: '/', handler: (request, reply) => reply.sse(source()) })
  })

  test('with schema.response', () => {
    const schema = { response: { 200: { type: 'object', properties: { answer: { type: 'number' } } } } } as const
    app.get('/', { schema }, (request, reply) => reply.sse(source()))
    app.get('/', { schema }, async (request, reply) => reply.sse(source()))
    app.route({ method: 'GET', url: '/', schema, handler: async (request, reply) => reply.sse(source()) })
  })

  test('with the TypeBox type provider', () => {
    const typed = app.withTypeProvider<TypeBoxTypeProvider>()
    const schema = { querystring: Type.Object({ q: Type.String() }), response: { 200: Type.Object({ answer: Type.Number() }) } }
    typed.get('/', { schema }, (request, reply) => {
      expect(request.query.q).type.toBe<string>()
      return reply.sse(source())
    })
    typed.get('/', { schema }, async (request, reply) => reply.sse(source()))
    typed.route({ method: 'GET', url: '/', schema, handler: (request, reply) => reply.sse(source()) })
    typed.route({ method: 'GET', url: '/', schema, handler: async (request, reply) => reply.sse(source()) })
  })

  test('with the Zod type provider', () => {
    const typed = app.withTypeProvider<ZodTypeProvider>()
    const schema = { querystring: z.object({ q: z.string() }), response: { 200: z.object({ answer: z.number() }) } }
    typed.get('/', { schema }, (request, reply) => {
      expect(request.query.q).type.toBe<string>()
      return reply.sse(source())
    })
    typed.get('/', { schema }, async (request, reply) => reply.sse(source()))
    typed.route({ method: 'GET', url: '/', schema, handler: (request, reply) => reply.sse(source()) })
    typed.route({ method: 'GET', url: '/', schema, handler: async (request, reply) => reply.sse(source()) })
  })

  test('a handler that returns something else than its Reply type still does not', () => {
    // @ts-expect-error No overload matches this call
    app.get<{ Reply: { answer: number } }>('/', async () => ({ answer: 'x' }))
  })
})

test('await reply.sse(source) gives the outcome, await reply.sse() the open stream', async () => {
  const outcome = await reply.sse(source())
  expect(outcome).type.toBeAssignableTo<StreamOutcome>()
  expect(outcome.reason).type.toBe<StreamOutcome['reason']>()
  expect(outcome.events).type.toBe<number>()
  expect(outcome.bytes).type.toBe<number>()
  expect(outcome.duration).type.toBe<number>()
  expect(outcome.error).type.toBe<unknown>()
  expect(await reply.sse()).type.toBeAssignableTo<EventStream>()
  expect((await reply.sse({ retry: 1000 })).send).type.toBe<EventStream['send']>()
})

test('every source of the table compiles', () => {
  expect(reply.sse).type.toBeCallableWith(source())
  expect(reply.sse).type.toBeCallableWith(['one', { data: 1 }])
  expect(reply.sse).type.toBeCallableWith(new Set(['one']))
  expect(reply.sse).type.toBeCallableWith(Readable.from(['one']))
  expect(reply.sse).type.toBeCallableWith(new ReadableStream<string>())
  expect(reply.sse).type.toBeCallableWith(new Response('data: one\n\n'))
  reply.sse(() => {})
  reply.sse(async (stream, signal) => {
    expect(stream).type.toBe<EventStream>()
    expect(signal).type.toBe<AbortSignal>()
    await stream.send({ data: 1 })
  })
  reply.sse(() => source())
  reply.sse(async () => fetch('http://localhost'))
  reply.sse(async function * (stream) { yield stream.lastEventId })
})

test('what is no source does not', () => {
  expect(reply.sse).type.not.toBeCallableWith(42)
  expect(reply.sse).type.not.toBeCallableWith(null)
  expect(reply.sse).type.not.toBeCallableWith({ data: 'one' })
  expect(reply.sse).type.not.toBeCallableWith(() => 42)
})

test('options compile', () => {
  expect<EventStreamOptions>().type.toBeAssignableFrom<{
    heartbeat: number,
    retry: [number, number],
    writeTimeout: number,
    maxDuration: number,
    maxBuffered: number,
    commitAfter: number
    serialize: (data: unknown) => string,
    onError: () => null,
    onClose: () => Promise<void>,
    signal: AbortSignal,
    reconnect: false
  }>()
  expect<StreamingOptions>().type.toBeAssignableFrom<{
    heartbeat: number,
    retry: number,
    onError: (error: unknown, request: FastifyRequest) => { data: string }
    onClose: (outcome: StreamOutcome, request: FastifyRequest) => void
  }>()
  app.register(streaming)
  app.register(streaming, { heartbeat: 1000 })
})

test('wrong options do not', () => {
  expect(reply.sse).type.not.toBeCallableWith(source(), { heartbeat: '15s' })
  expect(reply.sse).type.not.toBeCallableWith(source(), { heartbeats: 15_000 })
  expect(reply.sse).type.not.toBeCallableWith(source(), { retry: [1] })
  expect(reply.sse).type.not.toBeCallableWith(source(), { reconnect: 'no' })
  expect(reply.sse).type.not.toBeCallableWith(source(), { onError: async () => null })
  expect(reply.sse).type.not.toBeCallableWith({ heartbeat: '15s' })
  // @ts-expect-error No overload matches this call
  app.register(streaming, { reconnect: false })
  // @ts-expect-error No overload matches this call
  app.register(streaming, { heartbeat: '15s' })
})

test('EventStream', () => {
  expect<EventStream['send']>().type.toBeCallableWith('one')
  expect<EventStream['send']>().type.toBeCallableWith({ data: { any: 'thing' }, event: 'x', id: 1, retry: 1, comment: 'c' })
  expect<EventStream['send']>().type.not.toBeCallableWith({ name: 'Ada' })
  expect<EventStream['send']>().type.not.toBeCallableWith(42)
  expect<ReturnType<EventStream['send']>>().type.toBe<Promise<boolean>>()
  expect<ReturnType<EventStream['comment']>>().type.toBe<Promise<boolean>>()
  expect<EventStream['closed']>().type.toBe<Promise<StreamOutcome>>()
  expect<EventStream['lastEventId']>().type.toBe<string>()
})

test('diagnostics messages', () => {
  expect<StreamOpenMessage>().type.toBe<{ request: FastifyRequest, reply: FastifyReply, kind: StreamOpenMessage['kind'] }>()
  expect<StreamCloseMessage['outcome']>().type.toBe<StreamOutcome>()
  expect(request).type.toBe<FastifyRequest>()
})

test('an open stream may be returned in a route with a Reply type', () => {
  app.get<{ Reply: { a: string } }>('/', (request, reply) => reply.sse())
  app.get<{ Reply: { a: string } }>('/', async (request, reply) => await reply.sse({ retry: 1 }))
})

test('a string is no source', () => {
  expect(reply.sse).type.not.toBeCallableWith('text')
  expect(reply.streamWriter).type.not.toBeCallableWith('text')
  expect(reply.streamWriter).type.not.toBeCallableWith(() => 'text')
})

describe('channels', () => {
  interface Events { headline: { text: string }, message: number }
  const news = app.streaming.channel<Events>('news')

  test('are sources of a stream, also several of different types', () => {
    app.get('/', (request, reply) => reply.sse(news))
    app.get('/', (request, reply) => reply.sse([news, app.streaming.channel('any')], { lag: 'latest', replay: 3 }))
    expect(reply.sse).type.not.toBeCallableWith(news, { lag: 'never' })
  })

  test('take the events they name, with their data', () => {
    expect(news.publish).type.toBeCallableWith({ event: 'headline', data: { text: 'a' } } as const, { key: 'a' })
    expect(news.publish).type.toBeCallableWith({ data: 1 })
    expect(news.publish).type.not.toBeCallableWith({ event: 'headline', data: 1 } as const)
    expect(news.publish).type.not.toBeCallableWith({ event: 'other', data: 1 } as const)
    expect(news.publish).type.not.toBeCallableWith({ id: '1', data: 1 })
  })

  test('take any event when they name none', () => {
    const any = app.streaming.channel('any')
    expect(any.publish).type.toBeCallableWith('text')
    expect(any.publish).type.toBeCallableWith({ event: 'x', data: { a: 1 }, retry: 5 })
    expect(any.publish).type.not.toBeCallableWith({ id: '1' })
  })

  test('give events with their data', async () => {
    for await (const item of news.subscribe({ filter: event => event.event === 'headline' })) {
      if (item.type === 'event' && item.event === 'headline') expect(item.json()).type.toBe<{ text: string }>()
      if (item.type === 'gap') expect(item.reason).type.toBe<'trimmed' | 'unknown' | 'slow'>()
      if (item.type === 'position') expect(item.id).type.toBe<string>()
    }
  })
})
