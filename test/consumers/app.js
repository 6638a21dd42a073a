/**
 * An app as a user of the package would test it. `counter` tells what became of its last visitor.
 */
import Fastify from 'fastify'
import streaming from 'fastify-streaming'

export const counter = { left: 0 }

export async function buildApp () {
  const app = Fastify()
  await app.register(streaming)
  app.get('/countdown', (request, reply) => reply.sse([{ event: 'tick', data: 2 }, { event: 'tick', data: 1 }, 'lift-off']))
  app.get('/clock', (request, reply) => reply.sse(async function * () {
    try {
      for (let tick = 0; ; tick++) yield { id: tick, data: { tick } }
    } finally {
      counter.left++
    }
  }()))
  app.post('/upper', (request, reply) => reply.streamWriter([request.body.text.toUpperCase(), '\n']))
  return app
}
