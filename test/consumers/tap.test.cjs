// CommonJS, and an app that has loaded the plugin as an ES module.
const { openStream } = require('fastify-streaming/testing')
const t = require('tap')

t.test('tap', async t => {
  const { buildApp, counter } = await import('./app.js')
  const app = await buildApp()
  t.teardown(() => app.close())

  t.test('a countdown ends with lift-off', async t => {
    const stream = await openStream(app, { url: '/countdown' })
    t.match(stream, { statusCode: 200, headers: { 'content-type': 'text/event-stream' } })
    t.match(await stream.take(3), [{ event: 'tick', data: '2' }, { event: 'tick', data: '1' }, { data: 'lift-off' }])
    t.equal(await stream.next(), undefined)
    t.match(await stream.outcome, { reason: 'completed', events: 3 })
  })

  t.test('the clock stops when the visitor leaves', async t => {
    const stream = await openStream(app, { url: '/clock' })
    t.match(await stream.next(), { id: '0', data: '{"tick":0}' })
    stream.disconnect()
    t.match(await stream.outcome, { reason: 'disconnected' })
    t.equal(counter.left, 1)
  })

  t.test('a body of any kind is text', async t => {
    const stream = await openStream(app, { method: 'POST', url: '/upper', payload: { text: 'quiet' } })
    t.equal(await stream.text(), 'QUIET\n')
  })
})
