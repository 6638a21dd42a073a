import { openStream } from 'fastify-streaming/testing'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildApp, counter } from './app.js'

let app
beforeAll(async () => { app = await buildApp() })
afterAll(() => app.close())

test('a countdown ends with lift-off', async () => {
  const stream = await openStream(app, { url: '/countdown' })
  expect(stream.statusCode).toBe(200)
  expect(await stream.take(3)).toMatchObject([{ event: 'tick', data: '2' }, { event: 'tick', data: '1' }, { data: 'lift-off' }])
  expect(await stream.outcome).toMatchObject({ reason: 'completed', events: 3 })
})

test('the clock stops when the visitor leaves', async () => {
  const stream = await openStream(app, { url: '/clock' })
  expect(await stream.next()).toMatchObject({ id: '0', data: '{"tick":0}' })
  stream.disconnect()
  await expect(stream.outcome).resolves.toMatchObject({ reason: 'disconnected' })
  expect(counter.left).toBe(1)
})

test('a body of any kind is text', async () => {
  const stream = await openStream(app, { method: 'POST', url: '/upper', payload: { text: 'quiet' } })
  expect(await stream.text()).toBe('QUIET\n')
})
