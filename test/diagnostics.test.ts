import './fixtures/guard.ts'
import diagnosticsChannel from 'node:diagnostics_channel'
import t from 'tap'
import { turn } from './fixtures/clock.ts'
import { fetchRaw, open } from './fixtures/raw.ts'
import { serve } from './fixtures/server.ts'
import type { StreamCloseMessage, StreamOpenMessage } from '../lib/index.ts'

type Test = Parameters<typeof serve>[0]

function subscribe<Message> (t: Test, name: string): Message[] {
  const messages: Message[] = []
  const listener = (message: unknown) => { messages.push(message as Message) }
  diagnosticsChannel.subscribe(name, listener)
  t.teardown(() => diagnosticsChannel.unsubscribe(name, listener))
  return messages
}

t.test('fastify-streaming:open tells of a stream when it has its head, fastify-streaming:close of its outcome', async t => {
  const opened = subscribe<StreamOpenMessage>(t, 'fastify-streaming:open')
  const closed = subscribe<StreamCloseMessage>(t, 'fastify-streaming:close')
  const seen: unknown[] = []
  const { port, outcome } = await serve(t, (request, reply) => {
    seen.push(request, reply)
    return reply.sse(() => {})
  })
  const client = open(t, port)
  await client.until('\r\n\r\n')
  t.same([opened.length, closed.length], [1, 0])
  t.same(Object.keys(opened[0]).sort(), ['kind', 'reply', 'request'])
  t.equal(opened[0].request, seen[0])
  t.equal(opened[0].reply, seen[1])
  t.equal(opened[0].kind, 'sse')
  client.destroy()
  const last = await outcome()
  await turn()
  t.same([opened.length, closed.length], [1, 1])
  t.same(Object.keys(closed[0]).sort(), ['kind', 'outcome', 'reply', 'request'])
  t.equal(closed[0].request, seen[0])
  t.equal(closed[0].reply, seen[1])
  t.equal(closed[0].kind, 'sse')
  t.equal(closed[0].outcome, last)
  t.equal(last.reason, 'disconnected')
})

t.test('an error before the head is told to neither', async t => {
  const opened = subscribe(t, 'fastify-streaming:open')
  const closed = subscribe(t, 'fastify-streaming:close')
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(42 as never))
  t.match((await fetchRaw(t, port)).head, /^HTTP\/1.1 500 /)
  t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_SOURCE' } })
  await turn(3)
  t.same([opened.length, closed.length], [0, 0])
})

t.test('every open has its close, also for a stream that had no body', async t => {
  const opened = subscribe<StreamOpenMessage>(t, 'fastify-streaming:open')
  const closed = subscribe<StreamCloseMessage>(t, 'fastify-streaming:close')
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(['one']))
  await open(t, port, { method: 'HEAD' }).end()
  await fetchRaw(t, port)
  await outcome(1)
  await turn()
  t.same([opened.length, closed.length], [2, 2])
  t.same(closed.map(({ request, outcome: { reason } }) => [request.method, reason]), [['HEAD', 'completed'], ['GET', 'completed']])
})

t.test('nothing is published while nobody listens', async t => {
  const publish = t.capture(diagnosticsChannel.Channel.prototype, 'publish')
  const { port, outcome } = await serve(t, (request, reply) => reply.sse(['one']))
  await fetchRaw(t, port)
  await outcome()
  await turn()
  t.same(publish().filter(({ args: [message] }) => 'kind' in Object(message)), [])
})
