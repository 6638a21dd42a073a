import '../fixtures/guard.ts'
import { deepStrictEqual } from 'node:assert/strict'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fc from 'fast-check'
import t from 'tap'
import { commentLines, encodeEvent, isComment, retryLine, type ServerSentEvent } from '../../lib/stream/encode.ts'
import { fetchRaw } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'
import { parseEventStream } from '../fixtures/whatwg.ts'

const encode = (item: unknown) => encodeEvent(item, JSON.stringify)

t.test('the bytes of an event', async t => {
  t.test('a string is the data of a message', async t => {
    t.equal(encode('hello'), 'data: hello\n\n')
  })

  t.test('an empty string is an empty message', async t => {
    t.equal(encode(''), 'data: \n\n')
    t.equal(encode({ data: '' }), 'data: \n\n')
    t.same(parseEventStream(encode('')).events, [{ type: 'message', data: '', lastEventId: '' }])
  })

  t.test('all fields of an event stand in one block, one line each', async t => {
    t.equal(encode({ data: 'd', retry: 1, id: 'i', event: 'e', comment: 'c' }), ': c\nevent: e\nid: i\nretry: 1\ndata: d\n\n')
  })

  t.test('CR, LF and CRLF become line breaks of the data', async t => {
    t.equal(encode('a\rb\nc\r\nd\n\re'), 'data: a\ndata: b\ndata: c\ndata: d\ndata: \ndata: e\n\n')
    t.equal(encode('\n'), 'data: \ndata: \n\n')
  })

  t.test('a leading space of a value is kept', async t => {
    t.equal(encode({ event: ' e', id: ' i', data: ' d', comment: ' c' }), ':  c\nevent:  e\nid:  i\ndata:  d\n\n')
  })

  t.test('bytes are UTF-8 text, a byte order mark included', async t => {
    t.equal(encode({ data: new Uint8Array([0xC3, 0xA9, 10, 0xE2, 0x9C, 0x93]) }), 'data: é\ndata: ✓\n\n')
    t.equal(encode({ data: Buffer.from('\uFEFFx') }), 'data: \uFEFFx\n\n')
  })

  t.test('any other data goes through JSON.stringify, null and false too', async t => {
    t.equal(encode({ data: { a: [1, 'x\ny'] } }), 'data: {"a":[1,"x\\ny"]}\n\n')
    t.equal(encode({ data: null }), 'data: null\n\n')
    t.equal(encode({ data: false }), 'data: false\n\n')
    t.equal(encode({ data: 0 }), 'data: 0\n\n')
  })

  t.test('a serializer sees neither strings nor bytes, and its line breaks become line breaks of the event', async t => {
    const serialize = (data: unknown) => `<${JSON.stringify(data)}\r\n>`
    t.equal(encodeEvent('s', serialize), 'data: s\n\n')
    t.equal(encodeEvent({ data: 's' }, serialize), 'data: s\n\n')
    t.equal(encodeEvent({ data: Buffer.from('b') }, serialize), 'data: b\n\n')
    t.equal(encodeEvent({ data: 1 }, serialize), 'data: <1\ndata: >\n\n')
  })

  t.test('id 0 and an empty id are sent', async t => {
    t.equal(encode({ id: 0, data: 'x' }), 'id: 0\ndata: x\n\n')
    t.equal(encode({ id: '', data: 'x' }), 'id: \ndata: x\n\n')
  })

  t.test('an id may be any safe integer', async t => {
    t.equal(encode({ id: Number.MAX_SAFE_INTEGER }), 'id: 9007199254740991\n\n')
    t.equal(encode({ id: -3 }), 'id: -3\n\n')
  })

  t.test('an event without data gets an empty data line, so that clients dispatch it', async t => {
    t.equal(encode({ event: 'ping' }), 'event: ping\ndata: \n\n')
    t.equal(encode({ event: 'ping', id: 7 }), 'event: ping\nid: 7\ndata: \n\n')
    t.same(parseEventStream(encode({ event: 'ping' })).events, [{ type: 'ping', data: '', lastEventId: '' }])
  })

  t.test('an id alone moves the last event ID and dispatches nothing', async t => {
    t.equal(encode({ id: 'checkpoint' }), 'id: checkpoint\n\n')
    t.match(parseEventStream(encode({ id: 'checkpoint' })), { events: [], lastEventId: 'checkpoint' })
  })

  t.test('a comment is lines without a blank line after them, one for each of its lines', async t => {
    t.equal(encode({ comment: 'a\r\nb\rc\n' }), ': a\n: b\n: c\n: \n')
    t.equal(encode({ comment: '' }), ': \n')
    t.equal(commentLines('x'), ': x\n')
  })

  t.test('a retry, 0 too, is a line without a blank line after it', async t => {
    t.equal(encode({ retry: 0 }), 'retry: 0\n')
    t.equal(encode({ retry: 10, comment: 'c' }), ': c\nretry: 10\n')
    t.equal(retryLine(10), 'retry: 10\n')
  })

  t.test('a key whose value is undefined counts as absent', async t => {
    t.equal(encode({ data: 'x', event: undefined, id: undefined, retry: undefined, comment: undefined, other: undefined }), 'data: x\n\n')
    t.equal(encode({ data: undefined, event: 'e' }), 'event: e\ndata: \n\n')
  })
})

t.test('what is refused', async t => {
  for (const [name, item] of [
    ['a number', 42], ['a bigint', 1n], ['true', true], ['null', null], ['undefined', undefined], ['a symbol', Symbol('s')],
    ['a function', () => {}], ['bytes', Buffer.from('x')], ['an array', ['x']], ['an empty array', []], ['a date', new Date(0)],
    ['a map', new Map([['data', 'x']])], ['an empty object', {}], ['an object whose keys are all undefined', { data: undefined }]
  ] as const) {
    t.test(`${name} is no event, and the message says how to send it`, async t => {
      t.throws(() => encode(item), { code: 'FST_STREAM_INVALID_EVENT', message: /\{ data: value \}/ })
    })
  }

  t.test('an unknown key is refused by name, also beside known ones', async t => {
    t.throws(() => encode({ data: 'x', dta: 1 }), { code: 'FST_STREAM_INVALID_EVENT', message: /it has the key 'dta'.*\{ data: value \}/ })
    t.throws(() => encode({ user: null }), { code: 'FST_STREAM_INVALID_EVENT', message: /it has the key 'user'/ })
    t.throws(() => encode({ toString: 'x' }), { code: 'FST_STREAM_INVALID_EVENT', message: /it has the key 'toString'/ })
  })

  t.test('the message does not tell what the refused event held, because error replies reach clients', async t => {
    t.throws(() => encode({ password: 'secret' }), { message: /got '\[object Object\]'$/ })
    t.throws(() => encode({ data: { n: 1n, password: 'secret' } }), { message: /got '\[object Object\]'$/ })
  })

  t.test('data that serializes to undefined is refused', async t => {
    t.throws(() => encode({ data: () => {} }), { code: 'FST_STREAM_INVALID_EVENT', message: /serializes to a string, not to undefined/ })
    t.throws(() => encode({ data: Symbol('s') }), { code: 'FST_STREAM_INVALID_EVENT', message: /serializes to a string, not to undefined/ })
  })

  t.test('a serializer that returns no string is refused', async t => {
    t.throws(() => encodeEvent({ data: 1 }, (() => 1) as never), { code: 'FST_STREAM_INVALID_EVENT', message: /not to a number/ })
  })

  t.test('a cycle is refused with its cause', async t => {
    const cycle: Record<string, unknown> = {}
    cycle.self = cycle
    t.throws(() => encode({ data: cycle }), { code: 'FST_STREAM_INVALID_EVENT', cause: { name: 'TypeError', message: /circular/ } })
  })

  t.test('a bigint is refused with its cause', async t => {
    t.throws(() => encode({ data: 1n }), { code: 'FST_STREAM_INVALID_EVENT', cause: { name: 'TypeError', message: /BigInt/ } })
  })

  t.test('what a serializer throws is the cause', async t => {
    t.throws(() => encodeEvent({ data: 1 }, () => { throw new RangeError('mine') }), { code: 'FST_STREAM_INVALID_EVENT', cause: { name: 'RangeError', message: 'mine' } })
  })

  t.test('bytes that are not UTF-8 are refused, not repaired', async t => {
    t.throws(() => encode({ data: Buffer.of(0xC3) }), { code: 'FST_STREAM_INVALID_EVENT', message: /UTF-8/, cause: { code: 'ERR_ENCODING_INVALID_ENCODED_DATA' } })
  })

  for (const field of ['event', 'id'] as const) {
    for (const [name, value] of [['LF', 'a\nb'], ['CR', 'a\rb'], ['CRLF', 'a\r\n'], ['NUL', 'a\0']] as const) {
      t.test(`${field} with ${name} is refused`, async t => {
        t.throws(() => encode({ [field]: value, data: 'x' }), { code: 'FST_STREAM_INVALID_FIELD', message: new RegExp(`'${field}'.*free of line breaks and NUL`) })
      })
    }
  }

  t.test('an error message is one line, whatever the field held', async t => {
    t.throws(() => encode({ id: 'a\r\nb' }), { message: "The field 'id' of an event must be free of line breaks and NUL, got 'a string'" })
  })

  for (const value of [1, null, {}, true]) {
    t.test(`event ${JSON.stringify(value)} is refused`, async t => {
      t.throws(() => encode({ event: value }), { code: 'FST_STREAM_INVALID_FIELD', message: /'event'.*a string/ })
    })
  }

  for (const value of [null, {}, true, 1n, 1.5, NaN, Infinity, Number.MAX_SAFE_INTEGER + 1]) {
    t.test(`id ${String(value)} is refused`, async t => {
      t.throws(() => encode({ id: value }), { code: 'FST_STREAM_INVALID_FIELD', message: /'id'.*a string or a safe integer/ })
    })
  }

  for (const value of ['1', null, -1, 1.5, NaN, Infinity, Number.MAX_SAFE_INTEGER + 1]) {
    t.test(`retry ${String(value)} (a ${typeof value}) is refused`, async t => {
      t.throws(() => encode({ retry: value }), { code: 'FST_STREAM_INVALID_FIELD', message: /'retry'.*non-negative safe integer/ })
    })
  }

  t.test('a refusal tells a retry, which is no data, and of others what kind of value they are', async t => {
    t.throws(() => encode({ retry: -1 }), { message: /got '-1'$/ })
    t.throws(() => encode({ retry: '5' }), { message: /got 'a string'$/ })
    t.throws(() => encode({ id: 1.5 }), { message: /got 'a number'$/ })
  })

  for (const value of [1, null, {}]) {
    t.test(`comment ${JSON.stringify(value)} is refused`, async t => {
      t.throws(() => encode({ comment: value }), { code: 'FST_STREAM_INVALID_FIELD', message: /'comment'.*a string/ })
    })
  }

  for (const field of ['data', 'event', 'id', 'comment']) {
    t.test(`half a character in ${field} is refused, because UTF-8 would replace it in silence`, async t => {
      t.throws(() => encode({ [field]: 'a\uD83D' }), { code: 'FST_STREAM_INVALID_FIELD', message: new RegExp(`'${field}'.*well-formed`) })
    })
  }

  t.test('the reserved id of `reconnect: false` cannot be sent', async t => {
    t.throws(() => encode({ id: 'fastify-streaming:end', data: 'x' }), { code: 'FST_STREAM_INVALID_FIELD', message: /reserved/ })
  })
})

t.test('only a comment alone is no event', async t => {
  t.ok(isComment({ comment: '', data: undefined }))
  for (const item of ['x', { comment: 'c', data: '' }, { comment: 'c', event: '' }, { comment: 'c', id: '' }, { comment: 'c', retry: 0 }, { retry: 0 }]) {
    t.notOk(isComment(item), JSON.stringify(item))
  }
})

// Text full of what could be mistaken for framing.
const text = fc.oneof(
  fc.string({ unit: fc.constantFrom('\r', '\n', '\r\n', '\0', ':', ' ', '\uFEFF', '\u2028', '\u0085', 'data', 'event: x', 'id: 1', 'retry: 1', '\n\n', 'é', '😀') }),
  fc.string({ unit: 'binary' }))
const line = text.map(value => value.replace(/[\r\n\0]/g, ''))
const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined })
const anyEvent: fc.Arbitrary<ServerSentEvent> = fc.record({
  data: optional(fc.oneof(text, text.map(value => new TextEncoder().encode(value)), fc.jsonValue())),
  event: optional(line),
  id: optional(fc.oneof(line, fc.maxSafeInteger())),
  retry: optional(fc.maxSafeNat()),
  comment: optional(text)
}).filter(event => Object.values(event).some(value => value !== undefined))

const unbroken = (value: string) => value.replace(/\r\n|\r/g, '\n')

function textOf (data: unknown): string {
  if (typeof data === 'string') return unbroken(data)
  return data instanceof Uint8Array ? unbroken(Buffer.from(data).toString()) : JSON.stringify(data)
}

/** What a client makes of events that it gets in this order. */
function expected (events: ServerSentEvent[]): ReturnType<typeof parseEventStream> {
  const result: ReturnType<typeof parseEventStream> = { events: [], lastEventId: '', reconnectionTime: undefined, comments: [] }
  for (const { data, event, id, retry, comment } of events) {
    if (id !== undefined) result.lastEventId = String(id)
    if (retry !== undefined) result.reconnectionTime = retry
    if (comment !== undefined) result.comments.push(...unbroken(comment).split('\n').map(line => ` ${line}`))
    if (data === undefined && event === undefined) continue
    result.events.push({ type: event || 'message', data: data === undefined ? '' : textOf(data), lastEventId: result.lastEventId })
  }
  return result
}

t.test('any events become bytes from which the WHATWG algorithm makes the same events and nothing else', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(fc.array(anyEvent, { minLength: 1, maxLength: 5 }), events => {
    deepStrictEqual(parseEventStream(Buffer.from(events.map(encode).join(''))), expected(events))
  }), { numRuns: 500 }))
})

t.test('any events become bytes from which eventsource-parser makes the same events and nothing else', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(fc.array(anyEvent, { minLength: 1, maxLength: 5 }), events => {
    const parsed: EventSourceMessage[] = []
    const retries: number[] = []
    const parser = createParser({ onEvent: event => parsed.push(event), onRetry: retry => retries.push(retry), onError: error => { throw error } })
    parser.feed(events.map(encode).join(''))
    // It discards what has no data.
    const dispatched = events.filter(({ data, event }) => data !== undefined || event !== undefined)
    deepStrictEqual(
      parsed.map(({ event, data, id }) => ({ event: event ?? '', data, id })),
      dispatched.map(({ event, data, id }) => ({ event: event ?? '', data: data === undefined ? '' : textOf(data), id: id === undefined ? undefined : String(id) })))
    deepStrictEqual(retries, events.map(({ retry }) => retry).filter(retry => retry !== undefined))
  }), { numRuns: 500 }))
})

t.test('no value can forge a field or a block: each line starts with the name of a field, and only the last line is blank', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(anyEvent, event => {
    const lines = encode(event).split(/\r\n|\n|\r/)
    const count = (name: string) => lines.filter(line => line.startsWith(name)).length
    for (const field of ['event', 'id', 'retry'] as const) deepStrictEqual(count(`${field}: `), event[field] === undefined ? 0 : 1)
    const dispatches = event.data !== undefined || event.event !== undefined || event.id !== undefined
    deepStrictEqual(lines.filter(line => line === '').length, dispatches ? 2 : 1)
    deepStrictEqual(lines.length, count(': ') + count('event: ') + count('id: ') + count('retry: ') + count('data: ') + (dispatches ? 2 : 1))
  }), { numRuns: 500 }))
})

t.test('any data at all is either encoded or refused with a code: nothing is dropped', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(fc.anything({ withBigInt: true, withDate: true, withMap: true, withTypedArray: true }), data => {
    try {
      deepStrictEqual(parseEventStream(encode({ data })).events.length, 1)
    } catch (error) {
      deepStrictEqual((error as { code: string }).code, 'FST_STREAM_INVALID_EVENT')
    }
  }), { numRuns: 500, examples: [[1n]] }))
})

t.test('over a socket', async t => {
  t.test('events arrive as the bytes that they are, in order', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse(['one', { event: 'two', data: { n: 2 } }, { comment: 'three' }, { retry: 4 }, { id: 5, data: 'é' }]))
    const { body } = await fetchRaw(t, port)
    t.equal(Buffer.from(body, 'latin1').toString(), 'data: one\n\nevent: two\ndata: {"n":2}\n\n: three\nretry: 4\nid: 5\ndata: é\n\n')
  })

  t.test('send() refuses an invalid event, and the stream goes on', async t => {
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      await t.rejects(stream.send({ id: '1\ndata: forged' }), { code: 'FST_STREAM_INVALID_FIELD' })
      await t.rejects(stream.send({ dat: 'x' } as never), { code: 'FST_STREAM_INVALID_EVENT' })
      await stream.send('fine')
      stream.close()
    })
    const { body } = await fetchRaw(t, server.port)
    t.equal(body, 'data: fine\n\n')
    t.match(await server.outcome(), { reason: 'closed', events: 1 })
  })

  t.test('an invalid item of a source counts as the source throwing, and what came before is kept', async t => {
    const server = await serve(t, (request, reply) => reply.sse(['fine', { event: 'a\nb' }, 'never']))
    const { body } = await fetchRaw(t, server.port)
    t.equal(body, 'data: fine\n\nevent: error\ndata: {"code":"FST_STREAM_SOURCE_FAILED","message":"Internal Server Error"}\n\n')
    t.match(await server.outcome(), { reason: 'failed', events: 1, error: { code: 'FST_STREAM_INVALID_FIELD' } })
  })

  t.test('an invalid first item is an ordinary error reply', async t => {
    const { port } = await serve(t, (request, reply) => reply.sse([{ dat: 'x' }]))
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1.1 500 /)
    t.match(JSON.parse(body), { code: 'FST_STREAM_INVALID_EVENT', message: /it has the key 'dat'/ })
  })

  t.test('a comment is sent, but is no event of the outcome', async t => {
    const server = await serve(t, async (request, reply) => {
      const stream = await reply.sse()
      stream.comment()
      stream.comment('one\ntwo')
      stream.send({ comment: 'three' })
      stream.send({ retry: 4 })
      await stream.send({ id: 5 })
      stream.close()
    })
    const { body } = await fetchRaw(t, server.port)
    t.equal(body, ': \n: one\n: two\n: three\nretry: 4\nid: 5\n\n')
    t.match(await server.outcome(), { events: 2, bytes: body.length })
  })

  t.test('a comment that is no string is refused', async t => {
    t.plan(1)
    const { port } = await serve(t, (request, reply) => reply.sse(async stream => {
      await t.rejects(stream.comment(1 as never), { code: 'FST_STREAM_INVALID_FIELD' })
    }))
    await fetchRaw(t, port)
  })

  t.test('an event that does not fit one write still is one block', async t => {
    const data = 'x'.repeat(300_000)
    const { port } = await serve(t, (request, reply) => reply.sse(async function * () {
      yield { data, id: 1 }
      yield { data, id: 2 }
    }))
    const { body } = await fetchRaw(t, port)
    t.ok(body === `id: 1\ndata: ${data}\n\nid: 2\ndata: ${data}\n\n`)
  })
})
