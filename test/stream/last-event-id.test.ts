import '../fixtures/guard.ts'
import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import streaming from '../../lib/index.ts'
import { fetchRaw, type RawRequest } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'

/** What a stream takes for the last event ID of this request. */
async function lastEventIdOf (t: Test, request: RawRequest): Promise<string> {
  let lastEventId = 'not called'
  const { port } = await serve(t, (request, reply) => reply.sse(stream => {
    ({ lastEventId } = stream)
    return []
  }))
  await fetchRaw(t, port, request)
  return lastEventId
}

/** A header as it goes over the wire: its UTF-8 bytes. */
const header = (id: string) => ({ headers: [`Last-Event-ID: ${Buffer.from(id).toString('latin1')}`] })

t.test('the last event ID is that of the header', async t => {
  t.equal(await lastEventIdOf(t, header('42')), '42')
})

t.test('a header is decoded as UTF-8', async t => {
  t.equal(await lastEventIdOf(t, header('é✓😀')), 'é✓😀')
})

t.test('without a header it is the first lastEventId of the query string', async t => {
  t.equal(await lastEventIdOf(t, { path: '/?a=b&lastEventId=1&lastEventId=2' }), '1')
})

t.test('a query string is decoded', async t => {
  t.equal(await lastEventIdOf(t, { path: '/?lastEventId=%C3%A9+%26%3D' }), 'é &=')
})

t.test('the query string is the raw one, whatever schema and parser of the route make of it', async t => {
  let lastEventId = ''
  const { port } = await serve(t, () => {}, { fastify: { routerOptions: { querystringParser: () => ({}) } } as object }, app => {
    app.get('/news', (request, reply) => reply.sse(stream => {
      ({ lastEventId } = stream)
      return []
    }))
  })
  await fetchRaw(t, port, { path: '/news?lastEventId=7' })
  t.equal(lastEventId, '7')
})

t.test('the header comes before the query string', async t => {
  t.equal(await lastEventIdOf(t, { path: '/?lastEventId=query', ...header('header') }), 'header')
})

t.test('an empty header counts as none', async t => {
  t.equal(await lastEventIdOf(t, { path: '/?lastEventId=query', ...header('') }), 'query')
})

t.test('it is empty when there is none', async t => {
  t.equal(await lastEventIdOf(t, {}), '')
  t.equal(await lastEventIdOf(t, { path: '/?' }), '')
  t.equal(await lastEventIdOf(t, { path: '/?lasteventid=1' }), '')
  t.equal(await lastEventIdOf(t, { path: '/?lastEventId' }), '')
})

t.test('1,024 bytes are the longest one, counted in bytes', async t => {
  const longest = 'é'.repeat(512)
  t.equal(await lastEventIdOf(t, header(longest)), longest)
  t.equal(await lastEventIdOf(t, header(`${longest}x`)), '')
  t.equal(await lastEventIdOf(t, { path: `/?lastEventId=${'x'.repeat(1024)}` }), 'x'.repeat(1024))
  t.equal(await lastEventIdOf(t, { path: `/?lastEventId=${'x'.repeat(1025)}` }), '')
})

t.test('one with control characters counts as none', async t => {
  for (const control of ['%00', '%0A', '%0D', '%09', '%1F', '%7F', '%C2%80', '%C2%9F']) {
    t.equal(await lastEventIdOf(t, { path: `/?lastEventId=a${control}b` }), '', control)
  }
  t.equal(await lastEventIdOf(t, header('a\tb')), '')
  t.equal(await lastEventIdOf(t, header('a\u0085b')), '')
  t.equal(await lastEventIdOf(t, { path: '/?lastEventId=%C2%A0' }), '\u00A0')
})

t.test('where the header counts as none the query string is looked at', async t => {
  t.equal(await lastEventIdOf(t, { path: '/?lastEventId=query', ...header('a\tb') }), 'query')
})

t.test('a header of HTTP/2 is decoded as UTF-8 too', async t => {
  const app = Fastify({ http2: true })
  await app.register(streaming)
  let lastEventId = ''
  app.get('/', (request, reply) => reply.sse(stream => {
    ({ lastEventId } = stream)
    return []
  }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => app.close())
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => session.destroy())
  const request = session.request({ ':path': '/', 'last-event-id': Buffer.from('é✓').toString('latin1') })
  request.resume()
  await once(request, 'end')
  t.equal(lastEventId, 'é✓')
})

t.test('a stream without a source has it too', async t => {
  t.plan(1)
  const { port } = await serve(t, async (request, reply) => {
    const stream = await reply.sse()
    t.equal(stream.lastEventId, '42')
    stream.close()
  })
  await fetchRaw(t, port, header('42'))
})
