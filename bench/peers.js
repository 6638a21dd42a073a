/**
 * What happens in situations that every event stream meets sooner or later, with this package and with others that
 * send server-sent events from Fastify. `npm run build && node bench/peers.js` prints the table that the README quotes.
 *
 * Each situation runs in a process of its own, over a socket of the loopback. Every library is given its source as its
 * own README says, and its defaults.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import http2 from 'node:http2'
import net from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createParser } from 'eventsource-parser'
import Fastify from 'fastify'

const [library, situation] = process.argv.slice(2)
const names = ['fastify-streaming', '@fastify/sse', 'fastify-sse-v2', 'better-sse']

// A plain text and the id zero, as the library takes them by its own README.
const takesPlainValues = library === 'fastify-streaming' || library === '@fastify/sse'
const text = value => takesPlainValues ? value : { data: value }
const zero = () => takesPlainValues ? 0 : '0'

/** For each library: how it is registered, and how a route sends the events of an async iterable. */
const libraries = {
  async 'fastify-streaming' (app, source) {
    await app.register(await import('fastify-streaming'))
    app.get('/', (request, reply) => reply.sse(source()))
  },
  async '@fastify/sse' (app, source) {
    await app.register(await import('@fastify/sse'))
    app.get('/', { sse: 'only' }, async (request, reply) => { await reply.sse.send(source()) })
  },
  async 'fastify-sse-v2' (app, source) {
    const { FastifySSEPlugin } = await import('fastify-sse-v2')
    await app.register(FastifySSEPlugin)
    app.get('/', (request, reply) => { reply.sse(source()) })
  },
  async 'better-sse' (app, source) {
    const { createSession } = await import('better-sse')
    // Its iterate() takes values, not events; push() takes data, event and id.
    app.get('/', async (request, reply) => {
      reply.hijack()
      const session = await createSession(request.raw, reply.raw)
      for await (const item of source()) {
        const { data, event, id } = item
        session.push(data, event, id)
      }
      reply.raw.end()
    })
  }
}

const situations = {
  'A cookie of @fastify/cookie is on the stream': async serve => {
    const { head } = await serve(async function * () { yield { data: 'x' } }, async app => {
      await app.register(await import('@fastify/cookie'))
      app.addHook('onRequest', async (request, reply) => { reply.setCookie('session', '1') })
    })
    return /^set-cookie: session=1/im.test(await head) ? 'yes' : 'no'
  },

  'So are the headers of @fastify/cors': async serve => {
    const { head } = await serve(async function * () { yield { data: 'x' } }, async app => {
      await app.register(await import('@fastify/cors'), { origin: 'http://localhost' })
    })
    return /^access-control-allow-origin: http:\/\/localhost\r$/im.test(await head) ? 'yes' : 'no'
  },

  'The status of a source that throws a 404 at once': async serve => {
    const { head, closed } = await serve(async function * () { throw Object.assign(new Error('no such thing'), { statusCode: 404 }) })
    const status = /^HTTP\/1\.1 (\d+)/.exec(await Promise.race([head, closed, setTimeout(1500, '')]))?.[1]
    return status ?? 'none'
  },

  'Text with a lone CR cannot make a field': async serve => {
    const { closed } = await serve(async function * () { yield text('hello\revent: forged\rdata: x') })
    const [event] = parse(await Promise.race([closed, setTimeout(1000).then(closed.soFar)]))
    return event?.event === 'forged' ? 'forged' : event === undefined ? 'nothing' : 'yes'
  },

  'An id with a line break cannot make an event': async serve => {
    const { closed } = await serve(async function * () { yield { id: '1\n\nevent: forged\ndata: x\n', data: 'y' } })
    const response = await Promise.race([closed, setTimeout(1000).then(closed.soFar)])
    if (parse(response).some(({ event }) => event === 'forged')) return 'forged'
    return response.startsWith('HTTP/1.1 500 ') ? 'yes, refused' : 'yes'
  },

  'The id 0 arrives (`\'0\'` where ids are strings)': async serve => {
    const { closed } = await serve(async function * () { yield { id: zero(), data: 'x' } })
    const [event] = parse(await Promise.race([closed, setTimeout(1000).then(closed.soFar)]))
    return event?.id === '0' ? 'yes' : 'no'
  },

  'A client that leaves releases a source that waits': async serve => {
    let release
    const released = new Promise(resolve => { release = resolve })
    const { head, socket } = await serve(() => {
      let n = 0
      return {
        [Symbol.asyncIterator] () { return this },
        next: async () => n++ === 0 ? { value: { data: 'x' }, done: false } : await new Promise(() => {}),
        return: async () => { release('yes'); return { value: undefined, done: true } }
      }
    })
    await head
    socket.destroy()
    return await Promise.race([released, setTimeout(1500, 'no')])
  },

  'Taken of 64 MiB for a client that never reads': async serve => {
    const data = 'x'.repeat(64 * 1024)
    let taken = 0
    const { head, socket } = await serve(async function * () {
      for (; taken < 1024; taken++) {
        yield { data }
        await setImmediate()
      }
    })
    await head
    socket.pause()
    await setTimeout(3000)
    return taken === 1024 ? 'all' : `${Math.round(taken / 16)} MiB`
  },

  '`app.close()` with an open stream takes less than a second': async serve => {
    const { app, head } = await serve(async function * () {
      yield { data: 'x' }
      await new Promise(() => {})
    })
    await head
    return await Promise.race([app.close().then(() => 'yes'), setTimeout(1000, 'no')])
  },

  'The same with `forceCloseConnections: true`': async serve => {
    const { app, head } = await serve(async function * () {
      yield { data: 'x' }
      await new Promise(() => {})
    }, undefined, { forceCloseConnections: true })
    await head
    return await Promise.race([app.close().then(() => 'yes'), setTimeout(1000, 'no')])
  },

  'HTTP/2 without a process warning': async (serve, warnings) => {
    const { port } = await serve(async function * () { yield { data: 'x' } }, undefined, { http2: true })
    const session = http2.connect(`http://127.0.0.1:${port}`)
    const [headers] = await once(session.request({ accept: 'text/event-stream' }), 'response')
    await setTimeout(100)
    return headers[':status'] !== 200 ? `status ${headers[':status']}` : warnings.length === 0 ? 'yes' : 'warns'
  }
}

/** Starts an app with the library and opens its stream with a raw HTTP/1.1 request. */
async function serveWith (source, before, options = {}) {
  const app = Fastify(options)
  await before?.(app)
  await libraries[library](app, source)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address()
  if (options.http2) return { app, port }
  const socket = net.connect(port, '127.0.0.1')
  let received = ''
  socket.on('error', () => {})
  const head = new Promise(resolve => socket.on('data', chunk => {
    received += chunk
    // With the first bytes of the body.
    if (/\r\n\r\n[^]+/.test(received)) resolve(received.slice(0, received.indexOf('\r\n\r\n') + 2))
  }))
  const closed = once(socket, 'close').then(() => received)
  closed.soFar = () => received
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n')
  return { app, port, socket, head, closed }
}

function parse (response) {
  const events = []
  const parser = createParser({ onEvent: event => events.push(event) })
  // The bodies here are small: every chunk of the HTTP framing is one write, with a line for its size.
  parser.feed(response.slice(response.indexOf('\r\n\r\n') + 4).replace(/(^|\r\n)[\da-f]+\r\n([^]*?)(?=\r\n[\da-f]+\r\n|$)/gi, '$2'))
  return events
}

if (library !== undefined) {
  const warnings = []
  process.on('warning', warning => warnings.push(warning))
  process.send(await situations[situation]((...args) => serveWith(...args), warnings))
  process.exit()
}

const versions = await Promise.all(names.map(async name => {
  const file = name === 'fastify-streaming' ? '../package.json' : `../node_modules/${name}/package.json`
  return JSON.parse(await readFile(new URL(file, import.meta.url), 'utf8')).version
}))
console.log(`| | ${names.map((name, i) => `${name} ${versions[i]}`).join(' | ')} |`)
console.log(`|---|${names.map(() => '---').join('|')}|`)
for (const situation of Object.keys(situations)) {
  const results = []
  for (const name of names) {
    const child = fork(fileURLToPath(import.meta.url), [name, situation], { silent: true, execArgv: ['--no-warnings'] })
    let result = 'the process dies'
    child.on('message', message => { result = message })
    await once(child, 'exit')
    results.push(result)
  }
  console.log(`| ${situation} | ${results.join(' | ')} |`)
}
