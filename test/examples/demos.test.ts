import '../fixtures/guard.ts'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { Readable } from 'node:stream'
import FakeTimers from '@sinonjs/fake-timers'
import type { EventSourceMessage } from 'eventsource-parser'
import { EventSourceParserStream } from 'eventsource-parser/stream'
import t, { type Test } from 'tap'
import { Agent, request } from 'undici'
import { eventually } from '../fixtures/clock.ts'
import { catsAndDogs, isGone, startGallery } from '../fixtures/gallery.ts'
import { openStream, type OpenedStream } from '../../lib/testing.ts'

t.setTimeout(120_000)

// No connection is kept: an app closes at once.
const dispatcher = new Agent({ pipelining: 0 })
t.teardown(() => dispatcher.close())

/** A client that can leave. */
async function get (t: Test, url: string) {
  const client = new AbortController()
  t.teardown(() => client.abort())
  const { statusCode, headers, body } = await request(url, { dispatcher, signal: client.signal })
  return { statusCode, headers, body, chunks: body[Symbol.asyncIterator](), leave: () => client.abort() }
}

/** A client that reads events from a socket, from the start or after the id it has seen last. */
async function follow (t: Test, url: string, lastEventId = '') {
  const client = new AbortController()
  t.teardown(() => client.abort())
  const { body } = await request(url, { dispatcher, signal: client.signal, headers: { 'last-event-id': lastEventId } })
  const reader = Readable.toWeb(body).pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()).getReader()
  const next = async () => (await reader.read()).value as EventSourceMessage
  const take = async (count: number) => {
    const events = []
    while (events.length < count) events.push(await next())
    return events
  }
  return { next, take, leave: () => client.abort() }
}

async function post (url: string, body: object = {}) {
  const response = await request(url, { dispatcher, method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  await response.body.dump()
  return response.statusCode
}

/** Every event until the body ends. */
async function all ({ events }: OpenedStream) {
  const all = []
  for await (const event of events) all.push(event)
  return all
}

t.test('chat', async t => {
  const pets = (t: Test) => path.join(t.testdir({ 'README.md': catsAndDogs.text }), 'README.md')

  t.test('answers from the section of the README that fits best, one character an event', async t => {
    const { app } = await startGallery(t, { chat: { pace: 0, readme: pets(t) } })
    const stream = await openStream(app, { url: '/chat/answer?q=When+does+a+dog+bark%3F' })
    const [section, ...characters] = await all(stream)
    t.match(section, { event: 'section', data: '["Dogs"]' })
    t.match(characters.pop(), { event: 'end' })
    t.ok(characters.every(({ event, data }) => event === undefined && [...data].length === 1))
    t.equal(characters.map(({ data }) => data).join(''), catsAndDogs.short)
    t.match(await stream.outcome, { reason: 'completed' })
  })

  t.test('sends each character when it is typed, and stops typing when the client leaves', async t => {
    const { app, url, outcome } = await startGallery(t, { chat: { pace: 10, readme: pets(t) } })
    const client = await get(t, `${url}/chat/answer?q=cats`)
    let text = ''
    while (!text.includes('data: C\n')) text += (await client.chunks.next()).value
    t.equal(app.streaming.open, 1)
    client.leave()
    const { reason, events } = await outcome('/chat/answer')
    t.equal(reason, 'disconnected')
    t.ok(events < catsAndDogs.long.length, `${events} of ${catsAndDogs.long.length} characters`)
    t.equal(app.streaming.open, 0)
  })

  t.test('does not start a finished answer again: an EventSource that comes back gets 204', async t => {
    const { app } = await startGallery(t, { chat: { pace: 0, readme: pets(t) } })
    const url = '/chat/answer?q=dogs'
    const [last] = (await all(await openStream(app, { url }))).slice(-1)
    const { statusCode } = await app.inject({ url, headers: { 'last-event-id': last.id } })
    t.equal(statusCode, 204)
  })

  t.test('refuses an empty question', async t => {
    const { app } = await startGallery(t)
    t.equal((await app.inject('/chat/answer?q=')).statusCode, 400)
  })

  t.test('says so when it finds nothing', async t => {
    const { app } = await startGallery(t, { chat: { pace: 0, readme: pets(t) } })
    const stream = await openStream(app, { url: '/chat/answer?q=quark' })
    const [section, ...characters] = await all(stream)
    t.match(section, { event: 'section', data: '[]' })
    t.equal(characters.slice(0, -1).map(({ data }) => data).join(''), 'I found nothing.')
  })

  /** Answers like an OpenAI-compatible server: `answer` gets the request with its body. */
  async function model (t: Test, answer: (request: IncomingMessage & { text: string }, response: ServerResponse) => void) {
    const server = createServer(async (request, response) => {
      const text = (await request.setEncoding('utf8').toArray()).join('')
      answer(Object.assign(request, { text }), response)
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.teardown(() => { server.closeAllConnections(); server.close() })
    return { OPENAI_BASE_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, OPENAI_API_KEY: 'secret' }
  }

  t.test('relays a model when OPENAI_BASE_URL and OPENAI_API_KEY are set, and gives it the question with what the README says', async t => {
    let asked: IncomingMessage & { text: string } | undefined
    const env = await model(t, (request, response) => {
      asked = request
      response.setHeader('content-type', 'text/event-stream')
      // Cut in the middle of an event.
      response.write('data: {"choices":[{"delta":{"content":"Wo')
      response.end('of"}}]}\n\ndata: {"choices":[{"delta":{"content":"!"}}]}\n\ndata: [DONE]\n\n')
    })
    const { app } = await startGallery(t, { chat: { readme: pets(t), env } })
    const stream = await openStream(app, { url: '/chat/answer?q=What+does+a+dog+say%3F' })
    const events = await all(stream)
    t.match(events.pop(), { event: 'end' })
    t.same(events.map(({ data }) => data), ['{"choices":[{"delta":{"content":"Woof"}}]}', '{"choices":[{"delta":{"content":"!"}}]}', '[DONE]'])
    t.match(asked, { method: 'POST', url: '/v1/chat/completions', headers: { authorization: 'Bearer secret', 'content-type': 'application/json' } })
    const { stream: isStream, messages: [{ role, content }] } = JSON.parse(asked?.text as string)
    t.equal(isStream, true)
    t.equal(role, 'user')
    t.ok(content.includes(catsAndDogs.short))
    t.ok(content.endsWith('What does a dog say?'))
  })

  t.test('cancels the model when the client leaves', async t => {
    let cancelled: Promise<unknown> | undefined
    const env = await model(t, (request, response) => {
      cancelled = once(response, 'close')
      response.setHeader('content-type', 'text/event-stream')
      response.write('data: {"choices":[]}\n\n')
    })
    const { app } = await startGallery(t, { chat: { env } })
    const stream = await openStream(app, { url: '/chat/answer?q=dogs' })
    t.match(await stream.next(), { data: '{"choices":[]}' })
    stream.disconnect()
    await cancelled
    t.match(await stream.outcome, { reason: 'disconnected' })
  })

  t.test('shows an error of the model as an error, not as an answer', async t => {
    const env = await model(t, (request, response) => { response.writeHead(401).end('wrong key') })
    const { app } = await startGallery(t, { chat: { env } })
    const { statusCode, body } = await app.inject('/chat/answer?q=dogs')
    t.ok(statusCode >= 500)
    t.notMatch(body, 'wrong key')
  })
})

t.test('metrics', async t => {
  t.test('sends an event a second', async t => {
    const { app } = await startGallery(t)
    const start = performance.now()
    const stream = await openStream(app, { url: '/metrics/live' })
    await stream.take(2)
    // A timer may be a millisecond early.
    t.ok(performance.now() - start >= 1990)
    stream.disconnect()
    t.match(await stream.outcome, { reason: 'disconnected' })
  })

  t.test('measures this process: memory, CPU, delay and open streams', async t => {
    const { app } = await startGallery(t, { metrics: { pace: 20 } })
    const stream = await openStream(app, { url: '/metrics/live' })
    const first = JSON.parse((await stream.next())?.data as string)
    t.ok(Math.abs(first.rss / process.memoryUsage.rss() - 1) < 0.5, `${first.rss} is what this process takes`)
    t.ok(first.heap > 1e6 && first.heap < first.rss)
    t.ok(first.cpu >= 0 && first.cpu < 1000)
    t.ok(first.delay.mean >= 0 && first.delay.max >= first.delay.mean)
    t.equal(first.open, 1)
    const other = await openStream(app, { url: '/metrics/live' })
    t.equal(JSON.parse((await other.next())?.data as string).open, 2)
    for (const each of [stream, other]) {
      each.disconnect()
      await each.outcome
    }
    t.equal(app.streaming.open, 0)
  })
})

t.test('primes', async t => {
  t.test('writes every prime up to the limit, as plain text', async t => {
    const { app } = await startGallery(t, { primes: { pace: 0, limit: 50 } })
    const stream = await openStream(app, { url: '/primes/text' })
    t.match(stream.headers['content-type'], /^text\/plain/)
    t.equal(await stream.text(), '2\n3\n5\n7\n11\n13\n17\n19\n23\n29\n31\n37\n41\n43\n47\n')
    t.match(await stream.outcome, { reason: 'completed' })
  })

  t.test('sends each prime when it is found, and looks for no more when the client leaves', async t => {
    const { app, url, outcome } = await startGallery(t)
    const client = await get(t, `${url}/primes/text`)
    let text = ''
    while (!text.includes('\n11\n')) text += (await client.chunks.next()).value
    t.ok(text.startsWith('2\n3\n5\n7\n11\n'))
    t.equal(app.streaming.open, 1)
    client.leave()
    t.match(await outcome('/primes/text'), { reason: 'disconnected' })
    t.equal(app.streaming.open, 0)
  })
})

t.test('export', async t => {
  t.test('is 100,000 rows of NDJSON, whole, and makes no rows for a client that does not read', async t => {
    const { url, outcome } = await startGallery(t)
    const stalled = await get(t, `${url}/export/days.ndjson`)
    const { headers, body } = await get(t, `${url}/export/days.ndjson`)
    t.match(headers, { 'content-type': /^application\/x-ndjson/, 'x-rows': '100000' })
    const text = await body.text()
    const lines = text.split('\n')
    t.equal(lines.pop(), '')
    t.equal(lines.length, 100_000)
    const rows = lines.map(line => JSON.parse(line))
    t.match(rows[0], { date: '1800-01-01', weekday: 'Wednesday', moon: { phase: String }, daylight: { Berlin: Number } })
    const days = rows.map(({ date }) => Date.parse(date) / 86_400_000)
    t.equal(days.find((day, n) => n > 0 && day !== days[n - 1] + 1), undefined, 'every day follows the one before')
    t.match(rows.find(({ date }) => date === '2001-10-02'), { weekday: 'Tuesday', moon: { phase: 'full' } })
    stalled.leave()
    const { reason, bytes } = await outcome('/export/days.ndjson', 1)
    t.equal(reason, 'disconnected')
    t.ok(bytes < text.length / 2, `${bytes} of ${text.length} bytes`)
  })

  t.test('tells the memory of the server while it runs', async t => {
    const { app } = await startGallery(t, { export: { pace: 10 } })
    const stream = await openStream(app, { url: '/export/memory' })
    for (const { data } of await stream.take(2)) t.ok(Number(data) > 1e6)
    stream.disconnect()
    t.match(await stream.outcome, { reason: 'disconnected' })
  })
})

t.test('log tail', async t => {
  t.test('shows a request to the app to every viewer, live', async t => {
    const { app } = await startGallery(t)
    const viewers = await Promise.all([1, 2, 3].map(async () => await openStream(app, { url: '/log-tail/lines' })))
    await app.inject('/log-tail/hello')
    for (const viewer of viewers) {
      for await (const { data } of viewer.events) {
        if (JSON.parse(data).req?.url === '/log-tail/hello') break
      }
      viewer.disconnect()
      t.match(await viewer.outcome, { reason: 'disconnected' })
    }
    t.equal(app.streaming.open, 0)
  })

  t.test('shows what was logged before, and to a viewer who comes back only what came after', async t => {
    const { app } = await startGallery(t)
    await app.inject('/log-tail/hello')
    const first = await openStream(app, { url: '/log-tail/lines' })
    const seen = await first.take(3)
    t.match(seen.map(({ data }) => JSON.parse(data).msg), [/^Server listening/, 'incoming request', 'request completed'])
    first.disconnect()
    const second = await openStream(app, { url: '/log-tail/lines', headers: { 'last-event-id': seen[2].id as string } })
    const next = await second.next()
    t.ok(Number(next?.id) === Number(seen[2].id) + 1)
    second.disconnect()
  })
})

t.test('command', async t => {
  t.test('sends the lines one by one while the process runs, and kills it when the client leaves', async t => {
    const { app, url, outcome } = await startGallery(t, { command: { pace: 20 } })
    const client = await get(t, `${url}/command/output`)
    let text = ''
    while ((text.match(/^data: +[\d,]+ kB {2}\S+ \S+ {2}\d+ files/gm)?.length ?? 0) < 3) text += (await client.chunks.next()).value
    const pid = Number(/event: start\ndata: \{"pid":(\d+)\}/.exec(text)?.[1])
    t.equal(isGone(pid), false)
    client.leave()
    await eventually(() => isGone(pid))
    t.match(await outcome('/command/output'), { reason: 'disconnected' })
    t.equal(app.streaming.open, 0)
  })
})

t.test('upload', async t => {
  t.test('sends progress while the file arrives, and the SHA-256 of all of it at the end', async t => {
    const { app, url } = await startGallery(t)
    const file = randomBytes(3_000_000)
    const sha256 = createHash('sha256').update(file).digest('hex')
    const watcher = await openStream(app, { url: '/upload/one/events' })
    const { statusCode, body } = await request(`${url}/upload/one`, { dispatcher, method: 'POST', headers: { 'content-type': 'application/octet-stream' }, body: file })
    t.equal(statusCode, 200)
    t.same(await body.json(), { received: file.length, sha256 })
    const events = await all(watcher)
    const done = events.pop()
    t.match(done, { event: 'done', data: JSON.stringify({ received: file.length, sha256 }) })
    t.ok(events.length > 0 && events.every(({ event }) => event === 'progress'))
    const received = events.map(({ data }) => JSON.parse(data).received)
    t.same(received, received.toSorted((a, b) => a - b))
    t.match(await watcher.outcome, { reason: 'closed' })
  })

  t.test('keeps two uploads apart', async t => {
    const { app, url } = await startGallery(t)
    for (const result of await Promise.all(['one', 'two'].map(async text => {
      const watcher = await openStream(app, { url: `/upload/${text}/events` })
      await (await request(`${url}/upload/${text}`, { dispatcher, method: 'POST', headers: { 'content-type': 'application/octet-stream' }, body: text })).body.dump()
      const events = await all(watcher)
      return { text, ...JSON.parse(events.at(-1)?.data as string) }
    }))) t.equal(result.sha256, createHash('sha256').update(result.text).digest('hex'))
  })

  t.test('a file that nobody watches is 404', async t => {
    const { app } = await startGallery(t)
    const { statusCode } = await app.inject({ method: 'POST', url: '/upload/none', headers: { 'content-type': 'application/octet-stream' }, payload: 'x' })
    t.equal(statusCode, 404)
  })
})

t.test('board', async t => {
  const tabs = ['11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222']

  t.test('tells every tab of clicks and cursors, and a new one where things are', async t => {
    const { app, url } = await startGallery(t)
    const viewers = [await follow(t, `${url}/board/events`), await follow(t, `${url}/board/events`)]
    for (const viewer of viewers) t.match(await viewer.next(), { event: 'position', data: '{}' })
    for (const path of ['clicks', 'clicks']) t.equal(await post(`${url}/board/${path}`), 204)
    for (const tab of tabs) t.equal(await post(`${url}/board/cursor`, { tab, x: 0.25, y: 1, more: 'of it' }), 204)
    const cursors = tabs.map(tab => ({ event: 'cursor', data: JSON.stringify({ tab, x: 0.25, y: 1 }) }))
    for (const viewer of viewers) {
      t.match(await viewer.take(4), [{ event: 'count', data: '{"count":1}' }, { event: 'count', data: '{"count":2}' }, ...cursors])
    }
    t.equal(app.streaming.stats().subscribers, 4, 'two channels each')
    viewers.push(await follow(t, `${url}/board/events`))
    t.match(await viewers[2].next(), { event: 'position' })
    const state = await viewers[2].take(3)
    t.match(state.filter(({ event }) => event === 'count'), [{ data: '{"count":2}' }])
    t.match(state.filter(({ event }) => event === 'cursor'), cursors)
    for (const viewer of viewers) viewer.leave()
    await eventually(() => app.streaming.stats().subscribers === 0)
    t.equal(app.streaming.open, 0)
  })

  t.test('a tab that comes back is given the newest count, and told that it has missed others', async t => {
    const { url } = await startGallery(t)
    const first = await follow(t, `${url}/board/events`)
    const { id } = await first.next()
    first.leave()
    for (let n = 0; n < 3; n++) await post(`${url}/board/clicks`)
    const second = await follow(t, `${url}/board/events`, id)
    const [gap, count] = await second.take(2)
    t.equal(gap.event, 'gap')
    t.match(JSON.parse(gap.data), { reason: 'trimmed', channel: 'board:clicks' })
    t.match(count, { event: 'count', data: '{"count":3}' })
  })

  t.test('refuses what is no place on the board', async t => {
    const { url } = await startGallery(t)
    const [tab] = tabs
    for (const body of [{}, { tab, x: 0.5 }, { tab, x: 1.01, y: 0 }, { tab, x: 0, y: -1 }, { tab, x: 'left', y: 0 }, { tab: '<b>', x: 0, y: 0 }]) {
      t.equal(await post(`${url}/board/cursor`, body), 400, JSON.stringify(body))
    }
  })
})

t.test('room', async t => {
  const say = async (url: string, text: string, id: string = randomUUID()) => await post(`${url}/room/messages`, { id, name: 'Ada', text })
  const texts = (events: EventSourceMessage[]) => events.map(({ data }) => JSON.parse(data).text)

  t.test('gives every message to all who are there, and to whoever joins what was said', async t => {
    const { app, url } = await startGallery(t)
    const guests = [await follow(t, `${url}/room/messages`), await follow(t, `${url}/room/messages`)]
    for (const guest of guests) t.match(await guest.next(), { event: 'position', data: '{}' })
    for (const text of ['one', '<b>two</b>\r\nand a half']) t.equal(await say(url, text), 204)
    guests.push(await follow(t, `${url}/room/messages`))
    t.match(await guests[2].next(), { event: 'position' })
    await say(url, 'three 🐟')
    for (const guest of guests) {
      const events = await guest.take(3)
      t.same(texts(events), ['one', '<b>two</b>\r\nand a half', 'three 🐟'])
      t.match(JSON.parse(events[0].data), { name: 'Ada', time: Number })
      guest.leave()
    }
    await eventually(() => app.streaming.stats().subscribers === 0)
  })

  t.test('gives whoever comes back what they have missed, once and in order', async t => {
    const { url } = await startGallery(t)
    const first = await follow(t, `${url}/room/messages`)
    await say(url, 'seen')
    const [, { id }] = await first.take(2)
    first.leave()
    for (const text of ['missed', 'missed too']) await say(url, text)
    const second = await follow(t, `${url}/room/messages`, id)
    t.match(await second.next(), { event: 'position', id })
    await say(url, 'live')
    t.same(texts(await second.take(3)), ['missed', 'missed too', 'live'])
  })

  t.test('says so when it does not keep all that was missed', async t => {
    const { app, url } = await startGallery(t, { room: { keep: 3 } })
    const first = await follow(t, `${url}/room/messages`)
    const { id } = await first.next()
    first.leave()
    for (const text of ['1', '2', '3', '4', '5']) await say(url, text)
    const second = await follow(t, `${url}/room/messages`, id)
    const gap = await second.next()
    t.equal(gap.event, 'gap')
    t.same(JSON.parse(gap.data), { reason: 'trimmed', channel: 'room', after: id })
    t.same(texts(await second.take(3)), ['3', '4', '5'])
    const third = await follow(t, `${url}/room/messages`, gap.id)
    t.match(await third.next(), { event: 'position' }, 'not the same gap twice')
    t.same(texts(await third.take(3)), ['3', '4', '5'])
    t.equal(app.streaming.stats().gaps, 1)
  })

  t.test('a message that is sent twice is there once', async t => {
    const { url } = await startGallery(t)
    const id = randomUUID()
    const guest = await follow(t, `${url}/room/messages`)
    t.same(await Promise.all([say(url, 'Hello', id), say(url, 'Hello', id)]), [204, 204])
    await say(url, 'Bye')
    t.same(texts((await guest.take(3)).slice(1)), ['Hello', 'Bye'])
  })

  t.test('refuses messages that are empty or too long', async t => {
    const { url } = await startGallery(t)
    for (const text of ['', ' \n', 'x'.repeat(501)]) t.equal(await say(url, text), 400)
    t.equal(await say(url, '🐟'.repeat(500)), 204)
    t.equal(await say(url, 'x'.repeat(10_000)), 413)
    t.equal(await say(url, 'x', 'no id'), 400)
  })

  t.test('cuts all connections, and those who come back have lost nothing', async t => {
    const { app, url, outcome } = await startGallery(t)
    const guests = await Promise.all(Array.from({ length: 12 }, async () => await follow(t, `${url}/room/messages`)))
    const ids = await Promise.all(guests.map(async guest => (await guest.next()).id))
    t.equal(app.streaming.stats().subscribers, 12)
    t.equal(await post(`${url}/room/cut`), 204)
    for (const guest of guests) t.equal(await guest.next(), undefined)
    t.match(await outcome('/room/messages'), { reason: 'aborted' })
    await eventually(() => app.streaming.stats().subscribers === 0)
    await say(url, 'meanwhile')
    for (const id of ids) t.same(texts((await (await follow(t, `${url}/room/messages`, id)).take(2)).slice(1)), ['meanwhile'])
  })
})

t.test('ticker', async t => {
  /** The ticks of the demo come when a test says so; everything else goes on. */
  function ticks (t: Test) {
    const clock = FakeTimers.install({ toFake: ['setInterval', 'clearInterval', 'performance'] })
    t.teardown(() => clock.uninstall())
    return clock
  }

  t.test('sends 500 prices a second to every reader', async t => {
    const clock = ticks(t)
    const { url } = await startGallery(t)
    const readers = [await follow(t, `${url}/ticker/prices`), await follow(t, `${url}/ticker/prices`)]
    for (const reader of readers) t.match(await reader.next(), { event: 'position', data: '{}' })
    // From here on somebody is there.
    clock.tick(20)
    for (let second = 0; second < 3; second++) {
      clock.tick(1000)
      for (const reader of readers) {
        const prices = (await reader.take(second === 0 ? 510 : 500)).map(({ data }) => JSON.parse(data))
        t.equal(prices[0].n, second === 0 ? 0 : second * 500 + 10)
        t.equal(prices.findIndex(({ n }, index) => n !== prices[0].n + index), -1, 'each of them')
        t.match(prices[0], { symbol: /^[A-Z]+$/, price: Number, time: Number })
      }
    }
  })

  t.test('makes no prices while nobody watches', async t => {
    const clock = ticks(t)
    const { app, url } = await startGallery(t)
    const numbers = async (reader: Awaited<ReturnType<typeof follow>>, count: number) => (await reader.take(count)).map(({ data }) => JSON.parse(data).n)
    clock.tick(60_000)
    const first = await follow(t, `${url}/ticker/prices`)
    await first.next()
    clock.tick(20)
    t.same(await numbers(first, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    first.leave()
    await eventually(() => app.streaming.stats().subscribers === 0)
    clock.tick(60_000)
    const second = await follow(t, `${url}/ticker/prices`)
    await second.next()
    clock.tick(20)
    t.same(await numbers(second, 10), [10, 11, 12, 13, 14, 15, 16, 17, 18, 19])
  })

  t.test('its clock stops when the app closes', async t => {
    const clock = ticks(t)
    const { app } = await startGallery(t)
    t.equal(clock.countTimers(), 1)
    await app.close()
    t.equal(clock.countTimers(), 0)
  })

  t.test('a reader that falls behind goes on with the newest price of each symbol, and delays nobody', async t => {
    const clock = ticks(t)
    const { app, url } = await startGallery(t, { ticker: { rate: 64_000 } })
    const slow = await get(t, `${url}/ticker/prices`)
    const fast = await get(t, `${url}/ticker/prices`)
    await eventually(() => app.streaming.stats().subscribers === 2)

    /** Reads the numbers of the prices up to this one. */
    async function upTo (last: number, chunks: AsyncIterator<Buffer>) {
      const numbers: number[] = []
      let text = ''
      while (text !== '' || numbers.at(-1) !== last) {
        const blocks = (text + (await chunks.next()).value.toString()).split('\n\n')
        text = blocks.pop() as string
        for (const block of blocks) {
          if (!block.startsWith('event: position')) numbers.push(JSON.parse(/^data: (.*)/m.exec(block)?.[1] as string).n)
        }
      }
      return numbers
    }

    clock.tick(20)
    await upTo(1279, fast.chunks)
    for (let ticks = 2; ticks <= 100; ticks++) {
      clock.tick(20)
      const numbers = await upTo(1280 * ticks - 1, fast.chunks)
      if (numbers.length !== 1280) t.fail(`the fast reader got ${numbers.length} prices of 1280`)
    }
    const numbers = await upTo(127_999, slow.chunks)
    const isJump = (n: number, index: number) => n !== (numbers[index - 1] ?? -1) + 1
    const left = numbers.findIndex(isJump)
    t.ok(left > 0 && left < 100_000, `each price up to ${left}`)
    // The newest of each of the 20.
    t.same(numbers.slice(left), numbers.slice(left).sort((a, b) => a - b))
    t.equal(numbers.length - left, 20)
    t.equal(app.streaming.stats().gaps, 0)
  })
})
