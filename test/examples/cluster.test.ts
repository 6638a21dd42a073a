import '../fixtures/guard.ts'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { Readable } from 'node:stream'
import type { EventSourceMessage } from 'eventsource-parser'
import { EventSourceParserStream } from 'eventsource-parser/stream'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { Agent, request } from 'undici'
import { run, startCluster, type Cluster } from '../fixtures/cluster.ts'
import { deferred, eventually } from '../fixtures/clock.ts'
import { isGone } from '../fixtures/gallery.ts'
import { hasRedis, RedisServer } from '../fixtures/redis-server.ts'

const { createProxy } = await import('../../examples/cluster/proxy.js' as string)
const { startRedis } = await import('../../examples/cluster/redis.js' as string)

const skip = !hasRedis && 'there is no redis-server'

// No connection is kept.
const dispatcher = new Agent({ pipelining: 0 })
t.teardown(() => dispatcher.close())

async function post (url: string, body: object = {}) {
  const response = await request(url, { dispatcher, method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  await response.body.dump()
  return response
}

/** What EventSource does, but at once: it comes back after the last id until it is told to leave. */
function follow (t: Test, url: string) {
  const events: EventSourceMessage[] = []
  /** Who has answered, each time. */
  const processes: number[] = []
  const left = new AbortController()
  let lastEventId = ''
  const isOver = (async () => {
    for (let n = 0; n < 1000 && !left.signal.aborted; n++) {
      try {
        const { statusCode, headers, body } = await request(url, {
          dispatcher, signal: left.signal, headers: { accept: 'text/event-stream', 'last-event-id': lastEventId }
        })
        if (statusCode !== 200) throw new Error(`EventSource would have given up: ${statusCode}`)
        processes.push(Number(headers['x-process']))
        const stream = Readable.toWeb(body).pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream())
        for await (const event of stream as AsyncIterable<EventSourceMessage>) {
          if (event.id !== undefined) lastEventId = event.id
          events.push(event)
        }
      } catch (error) {
        if (/given up/.test((error as Error).message)) throw error
      }
    }
  })()
  const leave = async () => {
    left.abort()
    await isOver
  }
  t.teardown(leave)
  return { events, processes, leave, texts: () => events.filter(({ event }) => event === undefined).map(({ data }) => JSON.parse(data).text as string) }
}

const processOf = ({ headers }: { headers: Record<string, unknown> }) => Number(headers['x-process'])

t.test('two processes and a Redis', { skip }, async t => {
  let cluster: Cluster
  t.before(async () => { cluster = await startCluster(t) })

  t.test('requests go to the one and the other in turn, but for demos that each process has its own of', async t => {
    const { url, pids } = cluster
    const clicks = [await post(`${url}/board/clicks`), await post(`${url}/board/clicks`)]
    t.same(clicks.map(processOf).sort(), pids.toSorted())
    const uploads = await Promise.all(Array.from({ length: 4 }, async () => await post(`${url}/upload/none`)))
    t.equal(new Set(uploads.map(processOf)).size, 1)
  })

  t.test('the board has one count', async t => {
    const { url } = cluster
    const viewers = [follow(t, `${url}/board/events`), follow(t, `${url}/board/events`)]
    const counts = ({ events }: typeof viewers[0]) => events.filter(({ event }) => event === 'count').map(({ data }) => JSON.parse(data).count)
    await eventually(() => viewers.every(viewer => counts(viewer).length === 1))
    for (let n = 0; n < 4; n++) await post(`${url}/board/clicks`)
    await eventually(() => viewers.every(viewer => counts(viewer).length === 5))
    for (const viewer of viewers) t.same(counts(viewer), [2, 3, 4, 5, 6])
    t.not(viewers[0].processes[0], viewers[1].processes[0])
  })

  t.test('the ticker has one sequence of prices, also when one who watches it is at the one process, and one at the other', async t => {
    const { url } = cluster
    const viewers = [follow(t, `${url}/ticker/prices`), follow(t, `${url}/ticker/prices`)]
    const prices = ({ events }: typeof viewers[0]) => events.filter(({ event }) => event === undefined).map(({ data }) => JSON.parse(data))
    await eventually(() => viewers.every(viewer => viewer.events.length > 300))
    for (const viewer of viewers) {
      const [first, ...others] = prices(viewer)
      t.equal(others.findIndex(({ by, n }, index) => by !== first.by || n !== first.n + index + 1), -1)
      await viewer.leave()
    }
    t.not(viewers[0].processes[0], viewers[1].processes[0])
  })

  t.test('when a process is killed while people talk, everybody gets every message once and in order, and no gap', async t => {
    const { url, pids } = cluster
    const guests = [follow(t, `${url}/room/messages`), follow(t, `${url}/room/messages`)]
    await eventually(() => guests.every(({ events }) => events.length > 0))
    t.same(guests.map(({ processes }) => processes[0]).sort(), pids.toSorted())

    let lost = 0
    /** Says it until that is acknowledged. */
    async function say (name: string, text: string) {
      const id = randomUUID()
      for (let n = 0; n < 100; n++) {
        const status = await post(`${url}/room/messages`, { id, name, text }).then(({ statusCode }) => statusCode, () => 0)
        if (status === 204) return
        if (status !== 502) throw new Error(`${text}: ${status}`)
        lost++
      }
      throw new Error(`${text} was never acknowledged`)
    }

    const names = ['Ada', 'Bob', 'Cyd', 'Dan']
    const count = 20 // fewer than the room keeps, all in all
    const texts = names.map(name => Array.from({ length: count }, (_, n) => `${name} ${n}`))
    let said = 0
    await Promise.all(names.map(async (name, which) => {
      for (const text of texts[which]) {
        const saying = say(name, text)
        // With messages on their way.
        if (++said === 30) process.kill(pids[0], 'SIGKILL')
        await saying
      }
    }))
    await eventually(() => guests.every(guest => guest.texts().length >= count * names.length))
    t.comment(`${lost} requests were lost`)

    const all = guests[0].texts()
    t.same(guests[1].texts(), all, 'all in the same order')
    for (const [which, name] of names.entries()) t.same(all.filter(text => text.startsWith(name)), texts[which], 'in the order in which they were said')
    for (const { events } of guests) t.same(events.filter(({ event }) => event === 'gap'), [])
    t.same(guests.map(({ processes }) => processes.length).sort(), [1, 2], 'one has come back')
    t.ok(guests.every(({ processes }) => processes.at(-1) === pids[1]), 'to the other process')
  })

  t.test('another process takes the place of the one that was killed', async t => {
    const { url, pids, says } = cluster
    await says(new RegExp(`Process ${pids[0]} has ended with SIGKILL\\.`))
    const [, pid] = await says(/Process (\d+) has taken its place\./)
    const clicks = [await post(`${url}/board/clicks`), await post(`${url}/board/clicks`)]
    t.same(clicks.map(processOf).sort(), [Number(pid), pids[1]].sort())
  })

  t.test('a script can write into the room, to everybody in it', async t => {
    const { url, say } = cluster
    const guests = [follow(t, `${url}/room/messages`), follow(t, `${url}/room/messages`)]
    await eventually(() => guests.every(({ events }) => events.length > 0))
    t.not(guests[0].processes[0], guests[1].processes[0])
    t.same(await say('Hello from a script'), { code: 0, output: '' })
    await eventually(() => guests.every(guest => guest.texts().at(-1) === 'Hello from a script'))
    t.equal(guests[0].texts().length, 81, 'what was said before is still there')
  })

  t.test('Ctrl-C leaves no process behind, and no folder', async t => {
    const { redis, pid, pids, output, stop } = cluster
    const directory = path.dirname(redis)
    const client = new Redis(redis)
    const server = Number(/process_id:(\d+)/.exec(await client.info('server'))?.[1])
    client.disconnect()
    const all = [pid, server, ...pids, ...[...output().matchAll(/Process (\d+)/g)].map(([, pid]) => Number(pid))]
    t.equal(existsSync(directory), true)
    t.equal(await stop(), 0)
    await eventually(() => all.every(isGone))
    t.equal(existsSync(directory), false)
  })
})

t.test('without a redis-server and without REDIS_URL, it says what it needs', async t => {
  t.same(await run('start.js', [], { PATH: '', PORT: '0' }), {
    code: 1,
    output: 'This needs a Redis: install redis-server, or say where one is with the environment variable REDIS_URL.\n'
  })
})

t.test('without a redis-server, it takes the one of REDIS_URL, and leaves it alone', { skip }, async t => {
  const server = new RedisServer()
  t.teardown(() => server.remove())
  await server.start()
  const { PATH } = process.env
  t.teardown(() => {
    process.env.PATH = PATH
    delete process.env.REDIS_URL
  })
  process.env.PATH = ''
  process.env.REDIS_URL = server.socket
  const { url, isOwn, stop } = await startRedis()
  t.same([url, isOwn], [server.socket, false])
  await stop()
  t.equal(isGone(server.pid), false)
})

t.test('with a port that is in use, it says so', async t => {
  const taken = await listen(t, (request, response) => { response.end() })
  const { code, output } = await run('start.js', [], { PATH: process.env.PATH as string, PORT: String(taken) })
  t.equal(code, 1)
  t.equal(output, `Port ${taken} is in use. Choose another one with the environment variable PORT.\n`)
})

/** A server on a free port, which it resolves with. */
async function listen (t: Test, answer: RequestListener): Promise<number> {
  const server = createServer(answer)
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}

t.test('the proxy', async t => {
  /** The URL of a proxy in front of these ports. */
  async function proxy (t: Test, ports: number[]) {
    const server = createProxy(ports.map(port => ({ port, pid: port })))
    t.teardown(() => {
      server.close()
      server.closeAllConnections()
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    return `http://127.0.0.1:${server.address().port as number}`
  }

  /** A port on which nobody listens. */
  async function closedPort () {
    const server = createServer()
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as AddressInfo
    await once(server.close(), 'close')
    return port
  }

  const echo: RequestListener = (request, response) => {
    response.writeHead(201, { 'x-length': request.headers['content-length'], 'set-cookie': ['a=1', 'b=2'] })
    request.pipe(response)
  }

  t.test('passes on requests and answers, and tries the next process where nobody listens', async t => {
    const [dead, port] = [await closedPort(), await listen(t, echo)]
    const url = await proxy(t, [dead, port])
    for (let n = 0; n < 4; n++) {
      const { statusCode, headers, body } = await request(url, { dispatcher, method: 'POST', body: 'Hello' })
      t.equal(statusCode, 201)
      t.match(headers, { 'x-length': '5', 'set-cookie': ['a=1', 'b=2'], 'x-process': String(port) })
      t.equal(await body.text(), 'Hello')
    }
  })

  t.test('holds nothing back', async t => {
    let answer!: ServerResponse
    const url = await proxy(t, [await listen(t, (request, response) => { (answer = response).flushHeaders() })])
    const { body } = await request(url, { dispatcher })
    const chunks = body[Symbol.asyncIterator]()
    for (const text of ['one', 'two']) {
      answer.write(text)
      t.equal(String((await chunks.next()).value), text)
    }
    answer.end()
    t.equal((await chunks.next()).done, true)
  })

  t.test('cuts an answer that is cut', async t => {
    const url = await proxy(t, [await listen(t, (request, response) => { response.write('half', () => response.destroy()) })])
    const { body } = await request(url, { dispatcher })
    await t.rejects(body.text())
  })

  t.test('leaves when whoever asks leaves', async t => {
    const left = deferred()
    const url = await proxy(t, [await listen(t, (request, response) => {
      response.on('close', left.resolve)
      response.flushHeaders()
    })])
    const { body } = await request(url, { dispatcher })
    body.on('error', () => {}).destroy()
    await left.promise
  })

  t.test('a request that a process takes to its grave is not sent to another one', async t => {
    let count = 0
    const die: RequestListener = (request, response) => {
      count++
      response.destroy()
    }
    const url = await proxy(t, [await listen(t, die), await listen(t, die)])
    const { statusCode, body } = await request(url, { dispatcher, method: 'POST', body: 'Hello' })
    t.equal(statusCode, 502)
    await body.dump()
    t.equal(count, 1)
    await t.rejects(request(url, { dispatcher, headers: { accept: 'text/event-stream' } }), { code: 'UND_ERR_SOCKET' }, 'EventSource would give up on 502')
    t.equal(count, 2)
  })

  t.test('says so when nobody is there', async t => {
    const { statusCode, body } = await request(await proxy(t, []), { dispatcher })
    t.equal(statusCode, 502)
    t.equal(await body.text(), 'The process is gone.\n')
  })
})
