import '../fixtures/guard.ts'
import compress from '@fastify/compress'
import diagnosticsChannel from 'node:diagnostics_channel'
import { get, type IncomingMessage } from 'node:http'
import { setImmediate as immediate } from 'node:timers/promises'
import t from 'tap'
import { fetch, request } from 'undici'
import { eventually, fakeClock, settles, turn } from '../fixtures/clock.ts'
import { fetchRaw, open } from '../fixtures/raw.ts'
import { needsDrain, serve, type ServeOptions } from '../fixtures/server.ts'
import type { StreamOutcome, StreamWriter, StreamWriterCallback, StreamWriterOptions } from '../../lib/index.ts'

type Test = Parameters<typeof serve>[0]

/** A server whose `GET /` is `reply.streamWriter(source, options)`. */
async function writing (t: Test, source: unknown, options?: StreamWriterOptions, serveOptions?: ServeOptions) {
  return await serve(t, (request, reply) => reply.streamWriter(source as StreamWriterCallback, options), serveOptions)
}

/** A writer whose callback waits until the stream is over, and its client. */
async function openWriter (t: Test, options?: StreamWriterOptions, serveOptions?: ServeOptions) {
  let writer!: StreamWriter
  let isFull = () => false
  const server = await serve(t, (request, reply) => {
    isFull = () => needsDrain(reply.raw)
    return reply.streamWriter(async _writer => {
      writer = _writer
      await writer.closed
    }, options)
  }, serveOptions)
  const client = open(t, server.port)
  await eventually(() => writer !== undefined)
  return { ...server, client, writer, isFull: () => isFull() }
}

/** The head and the body of one answer. */
async function answer (t: Test, callback: StreamWriterCallback, options?: StreamWriterOptions, serveOptions?: ServeOptions) {
  return await fetchRaw(t, (await writing(t, callback, options, serveOptions)).port)
}

const bigChunk = Buffer.alloc(20 << 20, 'x')

t.test('write()', async t => {
  t.test('takes strings, as UTF-8, and bytes, as they are', async t => {
    const { body } = await answer(t, writer => {
      writer.write('grün\n')
      writer.write(new Uint8Array([0, 255, 10]))
      writer.write(Buffer.from('x'))
      return false
    })
    t.equal(body, 'gr\xc3\xbcn\n\x00\xff\nx')
  })

  t.test('may be passed around unbound, as the others may', async t => {
    const { body } = await answer(t, async ({ write, writef, writeln, json, flush, end }) => {
      ['a', 'b'].forEach(write)
      writef('%s', 'c')
      writeln('d')
      json('e')
      await flush()
      end('f')
    })
    t.equal(body, 'abcd\n"e"\nf')
  })

  t.test('resolves true at once while there is room, and when there is room again when there was none', async t => {
    const { client, writer, isFull } = await openWriter(t, { maxBuffered: 1 << 30 })
    t.equal(await writer.write('small'), true)
    await client.until('small')
    client.socket.pause()
    const waiting = writer.write(bigChunk)
    await turn()
    t.ok(isFull())
    const behind = writer.write('behind')
    t.equal(await settles(Promise.race([waiting, behind])), false)
    client.socket.resume()
    t.equal(await waiting, true)
    t.equal(await behind, true)
    writer.end()
    t.match((await client.end()).slice(-50), /behind\r\n0\r\n\r\n$/)
  })

  t.test('resolves false when the client leaves, also while it waits, and so do the others after it', async t => {
    const { client, writer, outcome } = await openWriter(t)
    writer.write('x')
    await client.until('x')
    client.socket.pause()
    const waiting = writer.write(bigChunk)
    await turn(3)
    client.destroy()
    t.equal(await waiting, false)
    t.match(await outcome(), { reason: 'disconnected' })
    for (const late of [writer.write('x'), writer.write({} as never), writer.writef('x'), writer.writeln('x'), writer.json({}), writer.json(undefined), writer.flush(), writer.end(), writer.end('x')]) {
      t.equal(await late, false)
    }
  })
})

t.test('each of write(), writef(), writeln(), json() and flush() leaves at once, also while the callback waits for something else', async t => {
  const writes: Array<[name: string, write: (writer: StreamWriter) => unknown, sent: string]> = [
    ['write()', writer => writer.write('text'), '4\r\ntext\r\n'],
    ['writef()', writer => writer.writef('%d', 42), '2\r\n42\r\n'],
    ['writeln()', writer => writer.writeln('text'), '5\r\ntext\n\r\n'],
    ['json()', writer => writer.json({ a: 1 }), '8\r\n{"a":1}\n\r\n'],
    ['flush()', writer => writer.flush(), '\r\n\r\n']
  ]
  for (const [name, write, sent] of writes) {
    t.test(name, async t => {
      let again!: () => void
      const { port } = await writing(t, async (writer: StreamWriter) => {
        write(writer)
        await new Promise<void>(resolve => { again = resolve })
        write(writer)
        await writer.closed
      })
      const client = open(t, port)
      const text = await client.until(sent)
      t.ok(text.endsWith(sent))
      if (name === 'flush()') return
      again()
      await client.until(sent, text.length)
    })
  }
})

t.test('writef() formats as util.format does', async t => {
  const { body } = await answer(t, writer => {
    writer.writef('%s has %d of %j%%, %o\n', 'he', 2, { a: 1 }, [1])
    writer.writef('none', 'more', 7)
    return false
  })
  t.equal(body, 'he has 2 of {"a":1}%, [ 1, [length]: 1 ]\nnone more 7')
})

t.test('writef() rejects when a value cannot be formatted, and the stream goes on', async t => {
  const { body } = await answer(t, async writer => {
    const value = { toString () { throw new Error('no text') } }
    await t.rejects(writer.writef('%s', value), { message: 'no text' })
    writer.writef('%s', value)
    return writer.end('the end')
  })
  t.equal(body, 'the end')
})

t.test('writeln() ends a line with LF; without a text the line is empty', async t => {
  const { body } = await answer(t, writer => {
    writer.writeln('one')
    writer.writeln()
    writer.writeln('')
    return false
  })
  t.equal(body, 'one\n\n\n')
})

t.test('writeln() refuses bytes, which it could not end with a line break', async t => {
  await answer(t, async writer => {
    for (const text of [Buffer.from('x'), null, 7]) {
      await t.rejects(writer.writeln(text as never), { code: 'FST_STREAM_INVALID_CHUNK', message: /a string in writeln\(text\)/ })
    }
    return false
  })
})

t.test('json()', async t => {
  t.test('writes one line for any value that is JSON', async t => {
    const { body } = await answer(t, writer => {
      for (const value of [{ text: 'a\nb' }, [1, 2], 'text', 7, null, true]) writer.json(value)
      return false
    })
    t.equal(body, '{"text":"a\\nb"}\n[1,2]\n"text"\n7\nnull\ntrue\n')
  })

  t.test('goes through serialize, the call\'s before the plugin\'s', async t => {
    const streaming = { serialize: () => 'of the plugin' }
    t.match(await answer(t, writer => writer.json({}).then(() => false), {}, { streaming }), { body: 'of the plugin\n' })
    t.match(await answer(t, writer => writer.json({}).then(() => false), { serialize: () => 'of the call' }, { streaming }), { body: 'of the call\n' })
  })

  t.test('refuses what does not serialize to one line, with the cause', async t => {
    const cycle: { self?: unknown } = {}
    cycle.self = cycle
    await answer(t, async writer => {
      for (const value of [undefined, () => {}, Symbol('s')]) {
        await t.rejects(writer.json(value), { code: 'FST_STREAM_INVALID_CHUNK', message: /a value that serializes to one line of text/ })
      }
      await t.rejects(writer.json(1n), { code: 'FST_STREAM_INVALID_CHUNK', cause: { name: 'TypeError' } })
      await t.rejects(writer.json(cycle), { code: 'FST_STREAM_INVALID_CHUNK', cause: { name: 'TypeError' } })
      return false
    })
    for (const text of ['two\nlines', '\ud800', 7, undefined]) {
      await answer(t, async writer => {
        await t.rejects(writer.json({}), { code: 'FST_STREAM_INVALID_CHUNK' })
        return false
      }, { serialize: () => text as never })
    }
  })
})

t.test('a chunk of another type', async t => {
  t.test('is refused, and the stream goes on', async t => {
    const { body, isWhole } = await answer(t, async writer => {
      for (const chunk of [undefined, null, 7, true, {}, [], new ArrayBuffer(1), new DataView(new ArrayBuffer(1)), Symbol('s')]) {
        await t.rejects(writer.write(chunk as never), { code: 'FST_STREAM_INVALID_CHUNK' })
      }
      return writer.end('the end')
    })
    t.equal(body, 'the end')
    t.equal(isWhole, true)
  })

  t.test('makes a message that shows writer.json(row), and not what is in the row', async t => {
    const { head, body } = await answer(t, async writer => { await writer.write({ password: 'hunter2' } as never) })
    t.match(head, /^HTTP\/1\.1 500/)
    t.strictSame(JSON.parse(body), {
      statusCode: 500,
      code: 'FST_STREAM_INVALID_CHUNK',
      error: 'Internal Server Error',
      message: "A chunk must be a string or a Uint8Array; for an object use writer.json(row), got '[object Object]'"
    })
  })

  t.test('that is written without await is logged once, at warn, and kills nobody', async t => {
    const { port, logs } = await writing(t, async (writer: StreamWriter) => {
      writer.write({} as never)
      writer.json(undefined)
      writer.end(7 as never)
      await turn(5)
      writer.write('x')
      return false
    })
    t.match(await fetchRaw(t, port), { body: 'x', isWhole: true })
    const refused = logs.filter(line => line.msg === 'refused by the stream')
    t.equal(refused.length, 3)
    for (const line of refused) t.match(line, { level: 40, err: { code: 'FST_STREAM_INVALID_CHUNK' } })
  })

  t.test('half a character, whose other half may come with the next chunk, is refused instead of replaced', async t => {
    const { body } = await answer(t, async writer => {
      await t.rejects(writer.write('😀'[0]), { code: 'FST_STREAM_INVALID_CHUNK' })
      return writer.end('😀')
    })
    t.equal(Buffer.from(body, 'latin1').toString(), '😀')
  })
})

t.test('flush()', async t => {
  t.test('sends the head when nothing was written', async t => {
    const { client, writer } = await openWriter(t)
    t.equal(await writer.flush(), true)
    t.match(await client.until('\r\n\r\n'), /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/plain; charset=utf-8\r\n[^]*\r\n\r\n$/)
  })

  t.test('resolves when the socket has taken everything', async t => {
    const { client, writer } = await openWriter(t)
    client.socket.pause()
    writer.write(bigChunk)
    const flushed = writer.flush()
    t.equal(await settles(flushed), false)
    client.socket.resume()
    t.equal(await flushed, true)
    t.equal(writer.bufferedBytes, 0)
  })

  t.test('resolves false when the client leaves meanwhile', async t => {
    const { client, writer } = await openWriter(t)
    await writer.flush()
    await client.until('\r\n\r\n')
    client.socket.pause()
    writer.write(bigChunk)
    const flushed = writer.flush()
    await turn(3)
    client.destroy()
    t.equal(await flushed, false)
  })

  t.test('waits for the hooks of the head', async t => {
    let go!: () => void
    let flushed!: Promise<boolean>
    const { port } = await writing(t, async (writer: StreamWriter) => {
      flushed = writer.flush()
      await writer.closed
    }, {}, { before (app) { app.addHook('onSend', async () => await new Promise<void>(resolve => { go = resolve })) } })
    const client = open(t, port)
    await eventually(() => go !== undefined)
    t.equal(await settles(flushed), false)
    go()
    t.equal(await flushed, true)
    await client.until('\r\n\r\n')
  })
})

t.test('end()', async t => {
  t.test('ends the body properly, with a last chunk when there is one', async t => {
    for (const [chunk, body] of [[undefined, 'x'], ['last', 'xlast'], [Buffer.from('last'), 'xlast'], ['', 'x']] as const) {
      let accepted: boolean | undefined
      t.match(await answer(t, async writer => {
        writer.write('x')
        accepted = await writer.end(chunk)
      }), { head: /^HTTP\/1\.1 200/, body, isWhole: true })
      t.equal(accepted, true)
    }
  })

  t.test('a second time resolves false and sends nothing', async t => {
    t.match(await answer(t, async writer => {
      writer.end('once')
      t.equal(await writer.end('twice'), false)
      t.equal(await writer.write('more'), false)
      t.equal(await writer.flush(), false)
    }), { body: 'once', isWhole: true })
  })

  t.test('with an invalid chunk rejects, and ends nothing', async t => {
    t.match(await answer(t, async writer => {
      await t.rejects(writer.end({} as never), { code: 'FST_STREAM_INVALID_CHUNK' })
      t.equal(await writer.write('goes on'), true)
      return false
    }), { body: 'goes on', isWhole: true })
  })

  t.test('ends the body while the callback waits for something else; an error of that is logged', async t => {
    for (const settle of ['resolve', 'reject'] as const) {
      let late!: () => void
      const { port, outcomes, outcome, logs } = await writing(t, async (writer: StreamWriter) => {
        setImmediate(() => writer.end('the end'))
        await new Promise<void>((resolve, reject) => { late = settle === 'resolve' ? resolve : () => reject(new Error('too late')) })
      })
      t.match(await fetchRaw(t, port), { body: 'the end', isWhole: true })
      t.match(await outcome(), { reason: 'completed' })
      late()
      await turn(5)
      t.equal(outcomes.length, 1)
      t.strictSame(logs.filter(line => line.level >= 40).map(({ err }) => err?.message), settle === 'reject' ? ['too late'] : [])
    }
  })

  t.test('sends the head, and no byte, when nothing was written', async t => {
    t.match(await answer(t, writer => { writer.end() }), { head: /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/plain; charset=utf-8\r\n/, body: '', isWhole: true })
    t.match(await answer(t, () => false), { head: /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/plain; charset=utf-8\r\n/, body: '', isWhole: true })
  })

  t.test('resolves false when too much waits for its chunk to be taken', async t => {
    const { client, writer, outcome } = await openWriter(t)
    client.socket.pause()
    writer.write(bigChunk)
    t.equal(await writer.end('last'), false)
    t.match(await outcome(), { reason: 'overflow' })
  })
})

t.test('a writer tells', async t => {
  t.test('bytes, of the body so far, and bufferedBytes, that wait', async t => {
    const { client, writer } = await openWriter(t)
    t.equal(writer.bytes, 0)
    t.equal(writer.bufferedBytes, 0)
    await writer.write('grün')
    t.equal(writer.bytes, 5)
    await writer.flush()
    t.equal(writer.bufferedBytes, 0)
    await client.until('n')
    client.socket.pause()
    writer.write(bigChunk)
    t.equal(writer.bytes, 5 + bigChunk.length)
    t.ok(writer.bufferedBytes > 10 << 20)
    client.socket.resume()
    await writer.flush()
    t.equal(writer.bufferedBytes, 0)
  })

  t.test('closed, with the outcome, and signal, which aborts before it', async t => {
    const { client, writer, outcome } = await openWriter(t)
    const order: string[] = []
    writer.signal.addEventListener('abort', () => order.push('abort'))
    const closed = writer.closed.then(result => { order.push('closed'); return result })
    writer.end('x')
    t.equal(writer.signal.aborted, false)
    await client.end()
    t.strictSame(await closed, await outcome())
    t.strictSame(order, ['abort', 'closed'])
    t.match(writer.signal.reason, { name: 'AbortError', reason: 'completed' })
  })

  t.test('by its signal at once when the client leaves, while the callback waits', async t => {
    let reason: unknown
    const { port, outcome } = await writing(t, async (writer: StreamWriter) => {
      writer.write('x')
      await new Promise<void>(resolve => writer.signal.addEventListener('abort', () => { reason = writer.signal.reason; resolve() }))
    })
    const client = open(t, port)
    await client.until('x')
    client.destroy()
    t.match(await outcome(), { reason: 'disconnected' })
    t.match(reason, { name: 'AbortError', reason: 'disconnected' })
  })
})

t.test('the first write decides the type', async t => {
  const types: Array<[name: string, write: (writer: StreamWriter) => unknown, type: string]> = [
    ['write() of a string', writer => { writer.write('x'); writer.json({}) }, 'text/plain; charset=utf-8'],
    ['write() of bytes', writer => writer.write(Buffer.from('x')), 'text/plain; charset=utf-8'],
    ['writeln()', writer => writer.writeln(), 'text/plain; charset=utf-8'],
    ['writef()', writer => writer.writef('x'), 'text/plain; charset=utf-8'],
    ['flush()', writer => { writer.flush(); writer.json({}) }, 'text/plain; charset=utf-8'],
    ['end()', writer => writer.end('x'), 'text/plain; charset=utf-8'],
    ['json()', writer => { writer.json({}); writer.write('x') }, 'application/x-ndjson'],
    ['json() after a refused write()', writer => { writer.write({} as never); writer.json({}) }, 'application/x-ndjson'],
    ['write() after a refused json()', writer => { writer.json(undefined); writer.write('x') }, 'text/plain; charset=utf-8']
  ]
  for (const [name, write, type] of types) {
    t.test(name, async t => {
      const { headers } = await fetch((await writing(t, (writer: StreamWriter) => { write(writer); return false })).url)
      t.equal(headers.get('content-type'), type)
      t.equal(headers.get('x-content-type-options'), type === 'text/plain; charset=utf-8' ? 'nosniff' : null)
    })
  }

  t.test('unless reply.type() was called, before the writer or in its callback', async t => {
    for (const [before, inside] of [['text/html', undefined], [undefined, 'text/html']]) {
      for (const write of [(writer: StreamWriter) => writer.write('x'), (writer: StreamWriter) => writer.json({})]) {
        const { url } = await serve(t, (request, reply) => {
          if (before !== undefined) reply.type(before)
          return reply.streamWriter(writer => {
            if (inside !== undefined) reply.type(inside)
            write(writer)
            return false
          })
        })
        const { headers } = await fetch(url)
        t.equal(headers.get('content-type'), 'text/html')
        t.equal(headers.get('x-content-type-options'), null)
      }
    }
  })

  t.test('and a x-content-type-options of the handler stays', async t => {
    const { url } = await serve(t, (request, reply) => reply.header('x-content-type-options', 'none of ours').streamWriter(['x']))
    t.equal((await fetch(url)).headers.get('x-content-type-options'), 'none of ours')
  })
})

t.test('the head', async t => {
  t.test('has the cache and proxy headers, and none that HTTP/2 forbids', async t => {
    const { head } = await answer(t, async function * () { yield 'x'; await immediate(); yield 'y' })
    t.equal(head.replace(/Date: .*/, 'Date: now'), [
      'HTTP/1.1 200 OK',
      'content-type: text/plain; charset=utf-8',
      'x-content-type-options: nosniff',
      'cache-control: no-cache, no-transform',
      'x-accel-buffering: no',
      'Date: now',
      'Connection: close',
      'Transfer-Encoding: chunked'
    ].join('\r\n'))
  })

  t.test('leaves the handler its own cache and proxy headers, and its status', async t => {
    const { url } = await serve(t, (request, reply) => reply.code(201).headers({ 'cache-control': 'max-age=5', 'x-accel-buffering': 'yes' }).streamWriter(['x']))
    const response = await fetch(url)
    t.equal(response.status, 201)
    t.equal(response.headers.get('cache-control'), 'max-age=5')
    t.equal(response.headers.get('x-accel-buffering'), 'yes')
  })

  t.test('goes through onSend hooks', async t => {
    const { head } = await answer(t, () => ['x'], {}, {
      before (app) { app.addHook('onSend', async (request, reply) => { reply.header('x-hook', `ran for ${String(reply.getHeader('content-type'))}`) }) }
    })
    t.match(head, /x-hook: ran for text\/plain; charset=utf-8\r\n/)
  })

  t.test('waits for the first byte', async t => {
    let write!: () => void
    const { port } = await writing(t, async (writer: StreamWriter) => {
      write = () => writer.write('x')
      await writer.closed
    }, {}, { streaming: { commitAfter: 0 } })
    const client = open(t, port)
    await eventually(() => write !== undefined)
    await turn(20)
    t.equal(client.received, '')
    write()
    await client.until('x')
  })

  t.test('waits for commitAfter milliseconds when the call says so', async t => {
    let isReady = false
    const { port } = await writing(t, async (writer: StreamWriter) => { isReady = true; await writer.closed }, { commitAfter: 5000 })
    const clock = fakeClock(t)
    const client = open(t, port)
    await eventually(() => isReady)
    clock.tick(4999)
    await turn(10)
    t.equal(client.received, '')
    clock.tick(1)
    t.match(await client.until('\r\n\r\n'), /content-type: text\/plain/)
  })

  t.test('with commitAfter 0 is sent after one turn of the loop', async t => {
    const { client } = await openWriter(t, { commitAfter: 0 })
    await client.until('\r\n\r\n')
  })

  t.test('of HEAD and the bodiless statuses comes without calling the callback', async t => {
    for (const [method, status] of [['HEAD', 200], ['GET', 204], ['GET', 304]] as const) {
      let calls = 0
      const { port, outcome } = await serve(t, (request, reply) => reply.code(status).streamWriter(() => { calls++ }))
      const { head, text } = await fetchRaw(t, port, { method })
      t.ok(head.startsWith(`HTTP/1.1 ${status}`))
      t.ok(text.endsWith('\r\n\r\n'))
      if (method === 'HEAD') {
        t.match(head, /cache-control: no-cache, no-transform\r\nx-accel-buffering: no/)
        t.notMatch(head, /content-type/i, 'only the first write would have told')
      }
      t.match(await outcome(), { reason: 'completed', bytes: 0 })
      t.equal(calls, 0)
    }
  })
})

t.test('an error before the head', async t => {
  const failures: Array<[name: string, fail: StreamWriterCallback]> = [
    ['a callback that throws', () => { throw Object.assign(new Error('no such table'), { statusCode: 404 }) }],
    ['a callback that rejects', async () => { await immediate(); throw Object.assign(new Error('no such table'), { statusCode: 404 }) }],
    ['a generator that throws', function * (): Generator<string> { throw Object.assign(new Error('no such table'), { statusCode: 404 }) }],
    ['an async generator that throws', async function * (): AsyncGenerator<string> { await immediate(); throw Object.assign(new Error('no such table'), { statusCode: 404 }) }]
  ]
  for (const [name, fail] of failures) {
    t.test(`${name}: is an ordinary error reply, with none of our headers`, async t => {
      const { port, logs, outcome } = await writing(t, fail)
      const { head, body } = await fetchRaw(t, port)
      t.match(head, /^HTTP\/1\.1 404 Not Found\r\ncontent-type: application\/json; charset=utf-8\r\n/)
      t.notMatch(head, /nosniff|no-cache|x-accel/)
      t.match(JSON.parse(body), { statusCode: 404, message: 'no such table' })
      t.match(await outcome(), { reason: 'failed', error: { message: 'no such table' }, bytes: 0 })
      t.equal(logs.filter(line => line.err !== undefined).length, 1)
      t.equal(logs.filter(line => line.msg === 'stream closed').length, 0)
    })
  }

  t.test('goes through setErrorHandler and the onError hooks', async t => {
    const seen: string[] = []
    const { url } = await serve(t, (request, reply) => reply.streamWriter(async () => { throw new Error('no such table') }), {
      before (app) {
        app.addHook('onError', async (request, reply, error) => { seen.push(error.message) })
        app.setErrorHandler((error, request, reply) => reply.code(418).send({ teapot: (error as Error).message }))
      }
    })
    const { statusCode, body } = await request(url)
    t.equal(statusCode, 418)
    t.strictSame(await body.json(), { teapot: 'no such table' })
    t.strictSame(seen, ['no such table'])
  })

  t.test('is still one while the hooks of the head run, after the first write', async t => {
    const { head, body } = await answer(t, async writer => {
      writer.write('x')
      throw Object.assign(new Error('no such table'), { statusCode: 404 })
    }, {}, { before (app) { app.addHook('onSend', async () => { await immediate() }) } })
    t.match(head, /^HTTP\/1\.1 404/)
    t.match(JSON.parse(body), { message: 'no such table' })
  })

  t.test('of a handler that forgets to return its stream, or is async, is the same', async t => {
    for (const handler of [
      (request: unknown, reply: any) => { reply.streamWriter(async () => { throw Object.assign(new Error('x'), { statusCode: 404 }) }) },
      async (request: unknown, reply: any) => { reply.streamWriter(async () => { await immediate(); throw Object.assign(new Error('x'), { statusCode: 404 }) }) },
      async (request: unknown, reply: any) => { await reply.streamWriter(async () => { throw Object.assign(new Error('x'), { statusCode: 404 }) }) }
    ]) {
      const { url } = await serve(t, handler)
      t.equal((await request(url)).statusCode, 404)
    }
  })
})

t.test('a handler that forgets to return its stream, or awaits it, gives the client the stream', async t => {
  for (const handler of [
    (request: unknown, reply: any) => { reply.streamWriter(['x']) },
    async (request: unknown, reply: any) => { reply.streamWriter(['x']) },
    async (request: unknown, reply: any) => { await reply.streamWriter(['x']) }
  ]) {
    const { port } = await serve(t, handler)
    t.match(await fetchRaw(t, port), { head: /^HTTP\/1\.1 200/, body: 'x', isWhole: true })
  }
})

t.test('what ends a writer before its head gives 503', async t => {
  async function refused (t: Test, end: (server: Awaited<ReturnType<typeof openWriter>>) => unknown, reason: string, options?: StreamWriterOptions, serveOptions?: ServeOptions) {
    const server = await openWriter(t, options, serveOptions)
    await end(server)
    const text = await server.client.end()
    t.match(text, /^HTTP\/1\.1 503 Service Unavailable\r\n/)
    t.match(text, /"code":"FST_STREAM_UNAVAILABLE"/)
    t.notMatch(text, /nosniff|no-cache|x-accel/)
    t.match(await server.outcome(), { reason, bytes: 0 })
    t.match(server.writer.signal.reason, { reason })
  }

  t.test('an aborted signal', async t => {
    const controller = new AbortController()
    await refused(t, () => controller.abort('enough'), 'aborted', { signal: controller.signal })
  })

  t.test('maxDuration', async t => {
    await refused(t, () => {}, 'expired', { maxDuration: 1 })
  })

  t.test('shutdown', async t => {
    await refused(t, ({ app }) => { app.close() }, 'shutdown', {}, { streaming: { shutdown: { grace: 0 } } })
  })

  t.test('a signal that was aborted before, and the callback is not called', async t => {
    let calls = 0
    const { port, outcome } = await writing(t, () => { calls++ }, { signal: AbortSignal.abort('enough') })
    const { head, body } = await fetchRaw(t, port)
    t.match(head, /^HTTP\/1\.1 503/)
    t.match(JSON.parse(body), { code: 'FST_STREAM_UNAVAILABLE', message: 'The stream has ended before it began: aborted' })
    t.match(await outcome(), { reason: 'aborted', error: 'enough' })
    t.equal(calls, 0)
  })
})

t.test('a stream ends', async t => {
  t.test('stalled, when its client has accepted nothing for writeTimeout while bytes wait', async t => {
    const { client, writer, isFull, outcome, logged } = await openWriter(t, { writeTimeout: 5000 })
    const clock = fakeClock(t)
    client.socket.pause()
    const written = writer.write(bigChunk)
    await turn(10)
    t.ok(isFull())
    clock.tick(4999)
    await turn()
    t.equal(writer.signal.aborted, false)
    clock.tick(1)
    t.equal(await written, false)
    t.match(await outcome(), { reason: 'stalled' })
    t.match(await logged('stream closed'), { level: 40, stream: { kind: 'writer', reason: 'stalled' } })
  })

  t.test('overflow, when more than maxBuffered bytes wait at a write', async t => {
    const { client, writer, outcome, logged } = await openWriter(t, { maxBuffered: 1000 })
    client.socket.pause()
    writer.write(bigChunk)
    await turn(5)
    t.equal(writer.signal.aborted, false, 'one big chunk always passes')
    t.equal(await writer.write('x'), false)
    t.match(await outcome(), { reason: 'overflow', bytes: bigChunk.length })
    t.match(await logged('stream closed'), { level: 40, stream: { kind: 'writer', reason: 'overflow' } })
  })

  t.test('expired, after 80 to 100 % of maxDuration', async t => {
    for (const [random, after] of [[0, 8000], [0.999, 9998]] as const) {
      const captured = t.capture(Math, 'random', () => random)
      const clock = fakeClock(t)
      const { client, writer, outcome } = await openWriter(t, { maxDuration: 10_000 })
      captured.restore()
      await writer.write('x')
      await client.until('x')
      clock.tick(after - 1)
      t.equal(writer.signal.aborted, false)
      clock.tick(1)
      t.match(writer.signal.reason, { reason: 'expired' })
      clock.uninstall()
      t.match(await outcome(), { reason: 'expired', bytes: 1 })
    }
  })

  t.test('aborted, by its signal, with the reason of that as error', async t => {
    const controller = new AbortController()
    const { client, writer, outcome, logged } = await openWriter(t, { signal: controller.signal })
    await writer.write('x')
    await client.until('x')
    controller.abort(new Error('revoked'))
    t.match(writer.signal.reason, { name: 'AbortError', reason: 'aborted' })
    t.match(await outcome(), { reason: 'aborted', error: { message: 'revoked' } })
    t.match(await logged('stream closed'), { level: 30, stream: { kind: 'writer', reason: 'aborted' }, err: { message: 'revoked' } })
  })
})

t.test('options', async t => {
  for (const [name, value] of Object.entries({ heartbeat: 0, retry: 1000, reconnect: false, onError: () => null, unknown: 1 })) {
    t.test(`${name} is refused, as it does not apply to a writer`, async t => {
      let calls = 0
      const { port, outcome } = await writing(t, () => { calls++ }, { [name]: value } as never)
      const { head, body } = await fetchRaw(t, port)
      t.match(head, /^HTTP\/1\.1 500/)
      const { code, message } = JSON.parse(body)
      t.equal(code, 'FST_STREAM_INVALID_OPTION')
      t.ok(message.startsWith(`Option '${name}' must be one of commitAfter, `))
      t.match(await outcome(), { reason: 'failed', error: { code: 'FST_STREAM_INVALID_OPTION' } })
      t.equal(calls, 0)
    })
  }

  t.test('of the plugin that do not apply are ignored: no heartbeat, no retry, no onError', async t => {
    const onErrors: unknown[] = []
    let fail!: () => void
    const { port, outcome } = await writing(t, async (writer: StreamWriter) => {
      writer.write('x')
      await new Promise((resolve, reject) => { fail = () => reject(new Error('boom')) })
    }, {}, { streaming: { heartbeat: 1000, retry: 5000, onError (error) { onErrors.push(error); return { data: 'failed' } } } })
    const clock = fakeClock(t)
    const client = open(t, port)
    await client.until('1\r\nx\r\n')
    clock.tick(10_000)
    await turn(5)
    fail()
    t.match(await client.end(), /\r\n\r\n1\r\nx\r\n$/)
    t.match(await outcome(), { reason: 'failed', error: { message: 'boom' }, bytes: 1 })
    t.strictSame(onErrors, [])
  })
})

t.test('the outcome', async t => {
  t.test('goes to onClose of the plugin and of the call, to one log line, and to those who listen, as kind writer', async t => {
    const seen: Array<[string, unknown]> = []
    const listen = (name: string) => {
      const listener = (message: unknown) => { seen.push([name, message]) }
      diagnosticsChannel.subscribe(`fastify-streaming:${name}`, listener)
      t.teardown(() => diagnosticsChannel.unsubscribe(`fastify-streaming:${name}`, listener))
    }
    listen('open')
    listen('close')
    const called: string[] = []
    let result!: StreamOutcome
    const { app, port, logged } = await serve(t, async (request, reply) => {
      result = await reply.streamWriter(['one', 'two'], { onClose: () => called.push('call') })
    }, { streaming: { onClose: () => called.push('plugin') } })
    await fetchRaw(t, port)
    const { stream } = await logged('stream closed')
    t.match(stream, { kind: 'writer', reason: 'completed', events: 0, bytes: 6, duration: Number })
    await eventually(() => result !== undefined)
    t.strictSame({ kind: 'writer', ...result }, stream)
    t.strictSame(called, ['plugin', 'call'])
    t.match(seen, [['open', { kind: 'writer', request: {}, reply: {} }], ['close', { kind: 'writer', request: {}, reply: {}, outcome: result }]])
    t.match(app.streaming.stats(), { open: 0, opened: 1, closed: { completed: 1 }, events: 0, bytes: 6 })
  })

  t.test('of a callback that throws after the head has its cause in one line, at warn', async t => {
    const { port, logs, logged } = await writing(t, (writer: StreamWriter) => { writer.write('x'); throw new Error('boom') })
    await fetchRaw(t, port)
    t.match(await logged('stream closed'), { level: 40, stream: { kind: 'writer', reason: 'failed' }, err: { message: 'boom' } })
    t.equal(logs.filter(line => line.err !== undefined).length, 1)
  })

  t.test('of a client that leaves is logged as no error', async t => {
    const { client, writer, logged } = await openWriter(t)
    await writer.write('x')
    await client.until('x')
    client.destroy()
    const line = await logged('stream closed')
    t.match(line, { level: 30, stream: { kind: 'writer', reason: 'disconnected', bytes: 1 } })
    t.equal(line.err, undefined)
  })
})

t.test('with @fastify/compress', async t => {
  const rows = 'x'.repeat(2000)
  for (const [name, write] of [
    ['text', (writer: StreamWriter) => writer.write(rows)],
    ['NDJSON', (writer: StreamWriter) => writer.json(rows)]
  ] as const) {
    t.test(`every write of ${name} leaves at once`, async t => {
      let again!: () => void
      const { port, url } = await writing(t, async (writer: StreamWriter) => {
        for (let i = 0; i < 3; i++) {
          write(writer)
          await new Promise<void>(resolve => { again = resolve })
        }
        return false
      }, {}, {
        before: async app => {
          await app.register(compress, { global: true, threshold: 0 })
          app.get('/other', async () => ({ rows }))
        }
      })
      t.equal((await request(`${url}/other`, { headers: { 'accept-encoding': 'gzip' } })).headers['content-encoding'], 'gzip')
      const client = open(t, port, { headers: ['Accept-Encoding: gzip, br'] })
      let length = 0
      for (let i = 0; i < 3; i++) {
        const text = await client.until(rows, length)
        length = text.length
        again()
      }
      const text = await client.end()
      t.notMatch(text, /content-encoding/i)
      t.match(text.slice(-7), '\r\n0\r\n\r\n')
    })
  }
})

t.test('an export of 100,000 rows to a slow reader', async t => {
  const count = 100_000
  const row = (id: number) => ({ id, text: 'x'.repeat(100) })
  const exports: Array<[name: string, make: (look: () => void) => StreamWriterCallback]> = [
    ['by a callback with a loop', look => async writer => {
      for (let i = 0; i < count; i++, look()) if (!await writer.json(row(i))) break
      return false
    }],
    ['ten rows a round', look => writer => {
      for (let i = 0; i < 10; i++, look()) writer.json(row(writer.round * 10 + i))
      return writer.round < count / 10 - 1
    }],
    ['by a generator', look => function * () { for (let i = 0; i < count; i++, look()) yield `${JSON.stringify(row(i))}\n` }]
  ]
  for (const [name, make] of exports) {
    t.test(`${name}: arrives whole, with a bounded number of bytes waiting`, async t => {
      let most = 0
      let isFull = () => false
      const { url, outcome } = await serve(t, (request, reply) => {
        isFull = () => needsDrain(reply.raw)
        return reply.type('application/x-ndjson').streamWriter(make(() => { most = Math.max(most, reply.raw.writableLength) }))
      })
      const response = await new Promise<IncomingMessage>(resolve => get(url, { agent: false }, resolve))
      await eventually(() => isFull())
      let lines = 0
      let bytes = 0
      for await (const chunk of response as AsyncIterable<Buffer>) {
        for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, at + 1)) lines++
        bytes += chunk.length
        if (bytes < 65_536) continue
        // Takes less than the server could make.
        bytes = 0
        await turn(5)
      }
      t.equal(lines, count)
      t.match(await outcome(), { reason: 'completed' })
      t.ok(most < 256 * 1024, `at most ${most} bytes waited`)
    })
  }
})
