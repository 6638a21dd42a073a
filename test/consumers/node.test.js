import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { openStream } from 'fastify-streaming/testing'
import { buildApp, counter } from './app.js'

const app = await buildApp()
after(() => app.close())

test('a countdown ends with lift-off', async () => {
  const stream = await openStream(app, { url: '/countdown' })
  assert.equal(stream.statusCode, 200)
  assert.equal(stream.headers['content-type'], 'text/event-stream')
  const seen = []
  for await (const { event, data } of stream.events) seen.push([event, data])
  assert.deepEqual(seen, [['tick', '2'], ['tick', '1'], [undefined, 'lift-off']])
  assert.equal((await stream.outcome).reason, 'completed')
})

test('the clock stops when the visitor leaves', async () => {
  const stream = await openStream(app, { url: '/clock' })
  assert.deepEqual((await stream.take(3)).map(({ id }) => id), ['0', '1', '2'])
  stream.disconnect()
  assert.equal((await stream.outcome).reason, 'disconnected')
  assert.equal(counter.left, 1)
})

test('a body of any kind is text', async () => {
  const stream = await openStream(app, { method: 'POST', url: '/upper', payload: { text: 'quiet' } })
  assert.equal(await stream.text(), 'QUIET\n')
})
