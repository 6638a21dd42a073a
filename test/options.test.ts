import './fixtures/guard.ts'
import Fastify from 'fastify'
import fc from 'fast-check'
import t from 'tap'
import streaming, { type EventStreamOptions, type StreamingOptions } from '../lib/index.ts'
import { pickRetry } from '../lib/options.ts'
import { fetchRaw } from './fixtures/raw.ts'
import { serve } from './fixtures/server.ts'

/** Registers the plugin with these options, which may be wrong. */
async function register (options: unknown): Promise<void> {
  await Fastify().register(streaming, options as StreamingOptions).ready()
}

const duration = 'milliseconds from 0 to 2147483647'
const notDurations = [-1, NaN, Infinity, 2 ** 31, '1000', null, true, 1n, {}]
const notFunctions = [null, 'f', 1, {}, true]

/** Options of plugin and call: the rule in the message, what it refuses, and what it takes. */
const shared: Record<string, [rule: string, wrong: unknown[], right: unknown[]]> = {
  heartbeat: [duration, notDurations, [0, 1.5, 2 ** 31 - 1]],
  writeTimeout: [duration, notDurations, [0, 1.5, 2 ** 31 - 1]],
  maxDuration: [duration, notDurations, [0, 1.5, 2 ** 31 - 1]],
  commitAfter: [`${duration}, or Infinity`, notDurations.filter(value => value !== Infinity), [0, 1.5, 2 ** 31 - 1, Infinity]],
  maxBuffered: ['a positive safe integer of bytes', [0, -1, 1.5, NaN, Infinity, 2 ** 53, '1', null], [1, 2 ** 53 - 1]],
  retry: [
    'a non-negative safe integer of milliseconds, or [min, max] of such',
    [-1, 1.5, NaN, Infinity, 2 ** 53, '1', null, {}, [], [1], [1, 2, 3], [2, 1], [-1, 1], [0, 1.5], ['0', 1], [0, Infinity]],
    [0, 2 ** 53 - 1, [0, 0], [1, 5]]
  ],
  serialize: ['a function', notFunctions, [String]],
  onError: ['a function', notFunctions, [() => null]],
  onClose: ['a function', notFunctions, [() => {}]]
}

/** Options of a call only. */
const perCall: typeof shared = {
  signal: ['an AbortSignal', [null, new AbortController(), {}, 'signal'], [new AbortController().signal]],
  reconnect: ['true or false', [null, 0, 'false', {}], [true, false]]
}

const named = (name: string, rule: string) => ({ code: 'FST_STREAM_INVALID_OPTION', message: new RegExp(`^Option '${name}' must be ${rule.replace(/[[\]]/g, '\\$&')}, got '`) })

t.test('a wrong plugin option fails at register, naming option, rule and value', async t => {
  for (const [name, [rule, wrong]] of Object.entries(shared)) {
    await t.test(name, async t => {
      for (const value of wrong) {
        await t.rejects(register({ [name]: value }), named(name, rule))
      }
    })
  }
  await t.rejects(
    register({ heartbeat: '15s' }),
    { message: "Option 'heartbeat' must be milliseconds from 0 to 2147483647, got '15s'" })
})

t.test('a right plugin option is taken', async t => {
  for (const [name, [,, right]] of Object.entries(shared)) {
    for (const value of right) {
      await t.resolves(register({ [name]: value }), name)
    }
  }
})

t.test('a wrong option of a call is an error reply, naming option, rule and value', async t => {
  let options: EventStreamOptions
  const server = await serve(t, (request, reply) => reply.sse(['a'], options))
  for (const [name, [rule, wrong]] of Object.entries({ ...shared, ...perCall })) {
    await t.test(name, async t => {
      for (const value of wrong) {
        options = { [name]: value }
        const { head, body } = await fetchRaw(t, server.port)
        t.match(head, /^HTTP\/1.1 500 /)
        t.match(JSON.parse(body), named(name, rule))
      }
    })
  }
  t.match(server.outcomes[0], { reason: 'failed', events: 0, error: { code: 'FST_STREAM_INVALID_OPTION' } })
})

t.test('a right option of a call is taken', async t => {
  let options: EventStreamOptions
  const { port } = await serve(t, (request, reply) => reply.sse([], options))
  for (const [name, [,, right]] of Object.entries({ ...shared, ...perCall })) {
    for (const value of right) {
      options = { [name]: value }
      t.match((await fetchRaw(t, port)).head, /^HTTP\/1.1 200 /, name)
    }
  }
})

t.test('an unknown plugin option fails at register, naming those that there are', async t => {
  await t.rejects(register({ heartBeat: 1 }), {
    code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'heartBeat' must be one of .*heartbeat, .*retry, .*\(it is unknown here\), got '1'/
  })
  await t.rejects(register({ toString: 1 }), { message: /^Option 'toString' must be one of/ })
})

t.test('options of a call only are unknown to the plugin', async t => {
  await t.rejects(register({ signal: new AbortController().signal }), { message: /^Option 'signal' must be one of/ })
  await t.rejects(register({ reconnect: false }), { message: /^Option 'reconnect' must be one of/ })
})

t.test('an event in place of a source shows how to send it', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse({ data: 'an event' } as EventStreamOptions))
  t.match((await fetchRaw(t, port)).body, /Option 'data' must be one of .* \(it is unknown here; a single event goes in an array, as \[event\]\)/)
})

t.test('an unknown option of a call is an error reply, also where a plain object is the only argument', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse([], { heartBeat: 1 } as never), {}, app => {
    app.get('/bare', async (request, reply) => {
      const stream = await reply.sse({ data: 'an event is no source' } as EventStreamOptions)
      t.equal(stream.isOpen, false)
    })
    app.get('/plugin-only', (request, reply) => reply.sse([], { maxStreams: 1 } as never))
  })
  t.match(JSON.parse((await fetchRaw(t, port)).body), { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'heartBeat' must be one of .*signal/ })
  t.match(JSON.parse((await fetchRaw(t, port, { path: '/bare' })).body), { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'data' must be one of/ })
  t.match(JSON.parse((await fetchRaw(t, port, { path: '/plugin-only' })).body), { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'maxStreams' must be one of/ })
})

t.test('options that are no plain object are refused', async t => {
  let options: unknown
  const { port } = await serve(t, (request, reply) => reply.sse([], options as never))
  for (options of [null, 'x', 1, [], new Date(0), new (class Options {})(), () => {}]) {
    t.match(JSON.parse((await fetchRaw(t, port)).body), { code: 'FST_STREAM_INVALID_OPTION', message: /^Option 'options' must be an object, got '/ })
  }
})

t.test('options may have no prototype', async t => {
  const options = Object.assign(Object.create(null), { retry: 1 })
  const { port } = await serve(t, (request, reply) => reply.sse([], options))
  t.equal((await fetchRaw(t, port)).body, 'retry: 1\n')
})

t.test('a value in a message is one short line', async t => {
  const messageOf = async (value: unknown) => {
    try { await register({ heartbeat: value }) } catch (error) { return (error as Error).message }
  }
  t.equal(await messageOf('a\r\nb'), `Option 'heartbeat' must be ${duration}, got 'a\\r\\nb'`)
  t.equal(await messageOf('x'.repeat(101)), `Option 'heartbeat' must be ${duration}, got '${'x'.repeat(100)}…'`)
  t.equal(await messageOf(new Error('a\nb')), `Option 'heartbeat' must be ${duration}, got 'Error: a'`)
  t.equal(await messageOf([1, 2, 3, 4]), `Option 'heartbeat' must be ${duration}, got '[ 1, 2, 3, ... 1 more item ]'`)
})

t.test('the options of a call come before those of the plugin, and undefined leaves the plugin\'s', async t => {
  const { port } = await serve(t, (request, reply) => reply.sse([{ data: 1 }]), { streaming: { retry: 1, serialize: data => `plugin ${data}` } }, app => {
    app.get('/call', (request, reply) => reply.sse([{ data: 1 }], { retry: 2, serialize: data => `call ${data}` }))
    app.get('/undefined', (request, reply) => reply.sse([{ data: 1 }], { retry: undefined, serialize: undefined }))
  })
  t.equal((await fetchRaw(t, port)).body, 'retry: 1\ndata: plugin 1\n\n')
  t.equal((await fetchRaw(t, port, { path: '/call' })).body, 'retry: 2\ndata: call 1\n\n')
  t.equal((await fetchRaw(t, port, { path: '/undefined' })).body, 'retry: 1\ndata: plugin 1\n\n')
})

async function * failing (): AsyncGenerator<string> {
  yield 'a'
  throw new Error('the source')
}

t.test('onError', async t => {
  t.test('of the plugin makes the event that tells of a failed source', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(failing()), {
      streaming: { onError: (error, request) => ({ event: 'oops', data: `${(error as Error).message} ${request.url}` }) }
    })
    t.equal((await fetchRaw(t, port)).body, 'data: a\n\nevent: oops\ndata: the source /\n\n')
  })

  t.test('of a call replaces that of the plugin', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(failing(), { onError: () => null }), {
      streaming: { onError () { throw new Error('never called') } }
    })
    t.equal((await fetchRaw(t, port)).body, 'data: a\n\n')
  })

  t.test('that throws is logged and ignored', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing(), { onError () { throw new Error('of onError') } }))
    t.equal((await fetchRaw(t, server.port)).body, 'data: a\n\nevent: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
    t.match(await server.logged('onError failed'), { level: 50, err: { message: 'of onError' } })
    t.match(await server.outcome(), { reason: 'failed', error: { message: 'the source' } })
  })

  t.test('that returns no event is logged and ignored', async t => {
    const server = await serve(t, (request, reply) => reply.sse(failing(), { onError: () => ({ wrong: 1 }) as never }))
    t.match((await fetchRaw(t, server.port)).body, 'data: a\n\nevent: error\n')
    t.match(await server.logged('onError failed'), { err: { code: 'FST_STREAM_INVALID_EVENT' } })
  })
})

t.test('onClose', async t => {
  t.test('runs for the plugin and then for the call, with outcome and request', async t => {
    const calls: unknown[][] = []
    const server = await serve(t, (request, reply) => reply.sse(['a'], { onClose: (...args) => calls.push(['call', ...args]) }), {
      streaming: { onClose: (...args) => calls.push(['plugin', ...args]) }
    })
    await fetchRaw(t, server.port)
    await server.logged('stream closed')
    t.match(calls, [['plugin', { reason: 'completed', events: 1 }, { url: '/' }], ['call', { reason: 'completed', events: 1 }, { url: '/' }]])
    t.equal(calls[0][1], calls[1][1])
  })

  t.test('runs before the promise of the stream settles', async t => {
    const order: string[] = []
    const server = await serve(t, async (request, reply) => {
      await reply.sse(['a'], { onClose: () => { order.push('onClose') } })
      order.push('settled')
      reply.log.info('done')
    })
    await fetchRaw(t, server.port)
    await server.logged('done')
    t.same(order, ['onClose', 'settled'])
  })

  t.test('that throws or rejects is logged and ignored, and the other one still runs', async t => {
    let calls = 0
    const server = await serve(t, (request, reply) => reply.sse(['a'], { async onClose () { calls++; throw new Error('of the call') } }), {
      streaming: { onClose () { calls++; throw new Error('of the plugin') } }
    })
    t.equal((await fetchRaw(t, server.port)).body, 'data: a\n\n')
    await server.logged('onClose failed', 2)
    t.same(server.logs.filter(({ msg }) => msg === 'onClose failed').map(({ level, err }) => [level, err?.message]).sort(), [[50, 'of the call'], [50, 'of the plugin']])
    t.equal(calls, 2)
    t.match(await server.outcome(), { reason: 'completed' })
  })
})

t.test('retry is the value itself, or a random integer from min to max, both included', async t => {
  t.equal(pickRetry(7), 7)
  const seen = new Set(Array.from({ length: 500 }, () => pickRetry([3, 5])))
  t.same([...seen].sort(), [3, 4, 5])
  t.doesNotThrow(() => fc.assert(fc.property(fc.maxSafeNat(), fc.maxSafeNat(), (a, b) => {
    const [min, max] = [Math.min(a, b), Math.max(a, b)]
    const retry = pickRetry([min, max])
    return Number.isSafeInteger(retry) && retry >= min && retry <= max
  })))
})
