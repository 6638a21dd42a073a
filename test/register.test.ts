import './fixtures/guard.ts'
import { createRequire } from 'node:module'
import Fastify, { type FastifyInstance, type FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import t from 'tap'
import streaming from '../lib/index.ts'

// Their types declare a `reply.sse` as well.
const require = createRequire(import.meta.url)
const others: Record<string, FastifyPluginAsync> = {
  '@fastify/sse': require('@fastify/sse'),
  'fastify-sse-v2': require('fastify-sse-v2').default
}

/** What this app says to `GET path`. */
async function get (app: FastifyInstance, path: string): Promise<{ statusCode: number, body: string }> {
  const { statusCode, body } = await app.inject({ url: path, headers: { accept: 'text/event-stream' } })
  return { statusCode, body }
}

t.test('the plugin decorates the context in which it is registered, and those inside', async t => {
  const app = Fastify()
  await app.register(streaming)
  t.equal(app.hasReplyDecorator('sse'), true)
  t.equal(app.hasPlugin('fastify-streaming'), true)
  app.get('/', (request, reply) => reply.sse(['outside']))
  app.register(async app => { app.get('/inside', (request, reply) => reply.sse(['inside'])) })
  t.equal((await get(app, '/')).body, 'data: outside\n\n')
  t.equal((await get(app, '/inside')).body, 'data: inside\n\n')
})

t.test('the plugin does not reach out of its context', async t => {
  const app = Fastify()
  app.register(async app => { await app.register(streaming) })
  await app.ready()
  t.equal(app.hasReplyDecorator('sse'), false)
})

t.test('options may be given by a function, and left out', async t => {
  const app = Fastify()
  app.register(async app => {
    await app.register(streaming, () => ({ retry: 5 }))
    app.get('/', (request, reply) => reply.sse([]))
  })
  app.register(async app => { await app.register(streaming) })
  t.equal((await get(app, '/')).body, 'retry: 5\n')
})

t.test('registered again in an inner context, each has its own options, also for the error before a head', async t => {
  const app = Fastify()
  await app.register(streaming, { retry: 1 })
  app.get('/', (request, reply) => reply.sse(['outer']))
  app.register(async app => {
    await app.register(streaming, { retry: 2 })
    app.get('/inner', (request, reply) => reply.sse(['inner']))
    app.get('/throws', (request, reply) => reply.sse(() => { throw new Error('before the head') }))
    app.register(async app => {
      await app.register(streaming, { retry: 3 })
      app.get('/innermost', (request, reply) => reply.sse(['innermost']))
    })
  })
  t.equal((await get(app, '/')).body, 'retry: 1\ndata: outer\n\n')
  t.equal((await get(app, '/inner')).body, 'retry: 2\ndata: inner\n\n')
  t.equal((await get(app, '/innermost')).body, 'retry: 3\ndata: innermost\n\n')
  t.match(await get(app, '/throws'), { statusCode: 500, body: 'before the head' })
})

t.test('registered in two contexts side by side, each has its own options', async t => {
  const app = Fastify()
  for (const retry of [1, 2]) {
    app.register(async app => {
      await app.register(streaming, { retry })
      app.get(`/${retry}`, (request, reply) => reply.sse([]))
    })
  }
  t.equal((await get(app, '/1')).body, 'retry: 1\n')
  t.equal((await get(app, '/2')).body, 'retry: 2\n')
})

t.test('registered twice in one context, the second one fails and says why', async t => {
  const app = Fastify()
  await app.register(streaming)
  await t.rejects(async () => { await app.register(streaming) }, {
    code: 'FST_STREAM_NAME_TAKEN',
    message: 'reply.sse is taken by fastify-streaming, which is registered here already: register one of the two in a context of its own'
  })
})

for (const [name, other] of Object.entries(others)) {
  t.test(`after ${name} in the same context it fails at register, naming it`, async t => {
    const app = Fastify()
    await app.register(other)
    await t.rejects(async () => { await app.register(streaming) }, {
      code: 'FST_STREAM_NAME_TAKEN',
      message: `reply.sse is taken by ${name}: register one of the two in a context of its own`
    })
  })

  t.test(`${name} in a context beside it is not in the way`, async t => {
    const app = Fastify()
    app.register(async app => { await app.register(other) })
    app.register(async app => {
      await app.register(streaming)
      app.get('/', (request, reply) => reply.sse(['ours']))
    })
    t.equal((await get(app, '/')).body, 'data: ours\n\n')
  })

  t.test(`${name} in an outer context is not in the way`, async t => {
    const app = Fastify()
    await app.register(other)
    app.register(async app => {
      await app.register(streaming)
      app.get('/', (request, reply) => reply.sse(['ours']))
    })
    t.equal((await get(app, '/')).body, 'data: ours\n\n')
  })
}

t.test('in the same context as another plugin\'s reply.sse it fails at register', async t => {
  for (const decorator of [() => {}, null, { getter: () => 1 }]) {
    const app = Fastify()
    await app.register(fp(async app => { app.decorateReply('sse', decorator as never) }))
    await t.rejects(async () => { await app.register(streaming) }, {
      code: 'FST_STREAM_NAME_TAKEN', message: /^reply.sse is taken by another plugin: /, cause: { code: 'FST_ERR_DEC_ALREADY_PRESENT' }
    })
  }
})

t.test('the other names that it needs are told when they are taken, too', async t => {
  for (const [name, add] of [
    ['reply.streamWriter', app => app.decorateReply('streamWriter', null as never)],
    ['app.streaming', app => app.decorate('streaming', null as never)]
  ] as Array<[string, (app: FastifyInstance) => unknown]>) {
    const app = Fastify()
    await app.register(fp(async app => { add(app) }))
    await t.rejects(async () => { await app.register(streaming) }, { code: 'FST_STREAM_NAME_TAKEN', message: `${name} is taken by another plugin: register one of the two in a context of its own` })
  }
})

t.test('@fastify/sse, registered later in the same context, is found at ready', async t => {
  const app = Fastify()
  await app.register(streaming)
  await app.register(others['@fastify/sse'])
  await t.rejects(async () => { await app.ready() }, { code: 'FST_STREAM_NAME_TAKEN', message: /^reply.sse is taken by @fastify\/sse: / })
})

t.test('@fastify/sse, registered later in an inner context, is found too when both are there', async t => {
  const app = Fastify()
  app.register(async app => {
    await app.register(streaming)
    await app.register(others['@fastify/sse'])
  })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_STREAM_NAME_TAKEN' })
})

t.test('fastify-sse-v2, registered later in the same context, is refused by Fastify', async t => {
  const app = Fastify()
  await app.register(streaming)
  await t.rejects(async () => { await app.register(others['fastify-sse-v2']) }, { code: 'FST_ERR_DEC_ALREADY_PRESENT' })
})

t.test('another plugin in an inner context has its own reply.sse there, and only there', async t => {
  const app = Fastify()
  await app.register(streaming)
  app.get('/', (request, reply) => reply.sse(['ours']))
  app.register(async app => {
    await app.register(others['@fastify/sse'])
    app.get('/theirs', { sse: true } as object, async (request, reply) => {
      await (reply.sse as unknown as { send (event: object): Promise<void> }).send({ data: 'theirs' })
    })
    app.get('/ours', (request, reply) => reply.sse(['ours']))
  })
  t.equal((await get(app, '/')).body, 'data: ours\n\n')
  t.equal((await get(app, '/ours')).body, 'data: ours\n\n')
  t.match((await get(app, '/theirs')).body, 'data: "theirs"\n\n')
})
