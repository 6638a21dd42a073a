import '../fixtures/guard.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import http2 from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { InstalledClock } from '@sinonjs/fake-timers'
import t from 'tap'
import { fetch } from 'undici'
import { eventually, fakeClock, turn } from '../fixtures/clock.ts'
import { open, type RawClient, type RawRequest } from '../fixtures/raw.ts'
import { serve, type ServeOptions, type TestServer } from '../fixtures/server.ts'
import type { StreamWriter } from '../../lib/index.ts'

type Test = Parameters<typeof serve>[0]

interface Export extends TestServer {
  clock: InstalledClock
  writer: StreamWriter
  fail: (error: Error) => void
  controller: AbortController
}

/** An export that waits after two rows, with time standing still. */
async function openExport (t: Test, { fastify }: ServeOptions = {}): Promise<Export> {
  const controller = new AbortController()
  const opened = {} as { writer: StreamWriter, fail: (error: Error) => void }
  const server = await serve(t, (request, reply) => reply.streamWriter(async writer => {
    opened.writer = writer
    await writer.json({ row: 1 })
    await writer.json({ row: 2 })
    await new Promise((resolve, reject) => { opened.fail = reject })
  }, { signal: controller.signal }), { fastify, streaming: { maxDuration: 60_000, writeTimeout: 1000, shutdown: { grace: 0 } } })
  return Object.assign(opened, server, { controller, clock: fakeClock(t) })
}

const rows = '{"row":1}\n{"row":2}\n'
const error = () => Object.assign(new Error('the secret of the database'), { statusCode: 400, expose: true })
const endings: Array<[reason: string, end: (running: Export) => unknown]> = [
  ['failed', ({ fail }) => fail(error())],
  ['expired', ({ clock }) => { clock.tick(60_000) }],
  ['aborted', ({ controller }) => controller.abort(error())],
  ['shutdown', async ({ app, clock }) => {
    const closed = app.close()
    await turn()
    clock.tick(0)
    clock.uninstall()
    await closed
  }]
]

const protocols: Array<[name: string, request: RawRequest]> = [
  ['HTTP/1.1', {}],
  ['HTTP/1.1 with keep-alive', { headers: ['Connection: keep-alive'] }],
  ['HTTP/1.0', { version: '1.0' }]
]
for (const [protocol, request] of protocols) {
  const isOld = request.version === '1.0'

  t.test(`${protocol}: a completed body ends properly`, async t => {
    const running = await openExport(t)
    const client = open(t, running.port, { ...request, headers: ['Connection: close'] })
    await client.until('{"row":2}')
    running.writer.end('the end\n')
    const text = await client.end()
    t.equal(client.errorCode, undefined)
    t.ok(text.endsWith(isOld ? `\r\n\r\n${rows}the end\n` : '8\r\nthe end\n\r\n0\r\n\r\n'))
    t.match(await running.outcome(), { reason: 'completed' })
  })

  for (const [reason, end] of endings) {
    t.test(`${protocol}: a body that is ${reason} is cut, and nothing is appended to it`, async t => {
      const running = await openExport(t)
      const client = open(t, running.port, request)
      await client.until('{"row":2}')
      await end(running)
      expectCut(t, await client.end(), client, isOld)
      t.match(await running.outcome(), { reason, bytes: 20 })
    })
  }

  t.test(`${protocol}: a body whose client takes nothing is cut`, async t => {
    const running = await openExport(t)
    const client = open(t, running.port, request)
    await client.until('{"row":2}')
    client.socket.pause()
    running.writer.write(Buffer.alloc(20 << 20))
    await turn(10)
    running.clock.tick(1000)
    t.match(await running.outcome(), { reason: 'stalled' })
    if (isOld) t.equal(await isReset(client), true)
    client.socket.resume()
    t.notOk((await client.end()).endsWith('0\r\n\r\n'))
  })

  t.test(`${protocol}: a body of which too much waits is cut`, async t => {
    const running = await openExport(t)
    const client = open(t, running.port, request)
    await client.until('{"row":2}')
    client.socket.pause()
    running.writer.write(Buffer.alloc(20 << 20))
    running.writer.write('one more')
    t.match(await running.outcome(), { reason: 'overflow' })
    if (isOld) t.equal(await isReset(client), true)
    client.socket.resume()
    t.notOk((await client.end()).endsWith('0\r\n\r\n'))
  })
}

function expectCut (t: Test, text: string, client: RawClient, isOld: boolean): void {
  t.match(text, isOld ? /^HTTP\/1\.1 200[^]*\r\n\r\n{"row":1}\n{"row":2}\n$/ : /^HTTP\/1\.1 200[^]*\n{"row":2}\n\r\n$/)
  t.notMatch(text, 'secret')
  // Without chunks the end of the connection is the end of the body: only a reset tells.
  if (isOld) t.equal(client.errorCode, 'ECONNRESET')
}

/**
 * Whether a client that has not read yet was reset. (One that reads sees the end of the connection only: libuv takes a
 * reset that comes together with bytes for it.)
 */
async function isReset (client: RawClient): Promise<boolean> {
  return await new Promise(resolve => client.socket.write('x', error => resolve((error as NodeJS.ErrnoException | undefined)?.code === 'ECONNRESET')))
}

t.test('HTTP/1.0: a body is reset also when it is cut in the tick of its head', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.streamWriter(function * () { yield 'row\n'; throw error() }))
  const client = open(t, port, { version: '1.0' })
  client.socket.pause()
  t.match(await outcome(), { reason: 'failed', bytes: 4 })
  t.equal(await isReset(client), true)
})

t.test('HTTP/1.0: a completed body is not reset', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.streamWriter(['row\n']))
  const client = open(t, port, { version: '1.0' })
  client.socket.pause()
  t.match(await outcome(), { reason: 'completed' })
  t.equal(await isReset(client), false)
})

t.test('a body with a content-length that the handler set is reset', async t => {
  const { port, outcome } = await serve(t, (request, reply) => reply.header('content-length', 8).streamWriter(function * () { yield 'row\n'; throw error() }))
  const client = open(t, port)
  client.socket.pause()
  await outcome()
  t.equal(await isReset(client), true)
})

t.test('HTTP/2', async t => {
  async function openHttp2 (t: Test) {
    const running = await openExport(t, { fastify: { http2: true } as object })
    const session = http2.connect(running.url)
    t.teardown(() => session.destroy())
    session.on('error', () => {})
    const stream = session.request({ ':path': '/' })
    let body = ''
    let errorCode: string | undefined
    stream.setEncoding('utf8')
    stream.on('data', chunk => { body += chunk })
    stream.on('error', (error: NodeJS.ErrnoException) => { errorCode = error.code })
    await eventually(() => body === rows)
    return { running, stream, closed: once(stream, 'close').catch(async () => await turn()), body: () => body, errorCode: () => errorCode }
  }

  t.test('a completed body ends properly', async t => {
    const { running, stream, closed, body, errorCode } = await openHttp2(t)
    running.writer.end('the end\n')
    await closed
    t.equal(body(), `${rows}the end\n`)
    t.equal(errorCode(), undefined)
    t.equal(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR)
    t.match(await running.outcome(), { reason: 'completed' })
    running.clock.uninstall()
  })

  for (const [reason, end] of endings) {
    t.test(`a body that is ${reason} is reset, and nothing is appended to it`, async t => {
      const { running, stream, closed, body, errorCode } = await openHttp2(t)
      await end(running)
      await closed
      t.equal(body(), rows)
      t.equal(stream.rstCode, http2.constants.NGHTTP2_INTERNAL_ERROR)
      t.equal(errorCode(), 'ERR_HTTP2_STREAM_ERROR')
      t.match(await running.outcome(), { reason, bytes: 20 })
      running.clock.uninstall()
    })
  }

  t.test('a body that is cut in the tick of its head has its head and what was written', async t => {
    const { url } = await serve(t, (request, reply) => reply.streamWriter(function * () { yield 'row\n'; throw error() }), { fastify: { http2: true } as object })
    const session = http2.connect(url)
    t.teardown(() => session.destroy())
    const stream = session.request({ ':path': '/' })
    let body = ''
    let status: number | undefined
    stream.setEncoding('utf8')
    stream.on('response', headers => { status = headers[':status'] })
    stream.on('data', chunk => { body += chunk })
    stream.on('error', () => {})
    await new Promise(resolve => stream.on('close', resolve))
    t.equal(status, 200)
    t.equal(body, 'row\n')
    t.equal(stream.rstCode, http2.constants.NGHTTP2_INTERNAL_ERROR)
  })
})

t.test('undici fetch sees truncated NDJSON as an error, after the rows that came', async t => {
  for (const [reason, end] of endings) {
    const running = await openExport(t)
    const response = await fetch(running.url)
    t.equal(response.headers.get('content-type'), 'application/x-ndjson')
    let text = ''
    await t.rejects(async () => {
      for await (const chunk of response.body as NonNullable<typeof response.body>) {
        text += Buffer.from(chunk).toString()
        if (text === rows) await end(running)
      }
    }, { name: 'TypeError' })
    t.equal(text, rows)
    t.match(await running.outcome(), { reason })
    running.clock.uninstall()
  }
})

const nginx = '/usr/sbin/nginx'
// On a machine of the CI it has to be there.
const skip = !existsSync(nginx) && process.env.CI !== 'true' && `${nginx} is not installed`

t.test('through nginx as it is by default, which speaks HTTP/1.0 to its upstream', { skip }, async t => {
  /** The path of the socket at which nginx passes everything on to `port`. */
  async function openNginx (t: Test, port: number): Promise<string> {
    const dir = await mkdtemp(join(tmpdir(), 'fastify-streaming-nginx-'))
    t.teardown(async () => await rm(dir, { recursive: true }))
    const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${dir}/${name};`).join('\n')
    await writeFile(`${dir}/nginx.conf`, `
      daemon off;
      master_process off;
      pid ${dir}/nginx.pid;
      error_log ${dir}/error.log;
      events {}
      http {
        access_log off;
        ${paths}
        server {
          listen unix:${dir}/nginx.sock;
          location / { proxy_pass http://127.0.0.1:${port}; }
        }
      }`)
    const child = spawn(nginx, ['-e', `${dir}/error.log`, '-c', `${dir}/nginx.conf`], { stdio: 'inherit' })
    const exited = once(child, 'exit')
    t.teardown(async () => { child.kill('SIGKILL'); await exited })
    await Promise.race([
      // The file of the socket is there before nginx listens on it; that of its pid comes after.
      eventually(() => existsSync(`${dir}/nginx.pid`)),
      exited.then(([code]) => { throw new Error(`nginx has exited with ${code}`) })
    ])
    return `${dir}/nginx.sock`
  }

  t.test('a completed body ends properly', async t => {
    const running = await openExport(t)
    const client = open(t, await openNginx(t, running.port))
    await client.until('{"row":2}')
    running.writer.end('the end\n')
    t.match(await client.end(), /the end\n\r\n0\r\n\r\n$/)
  })

  t.test('a body that is cut in the tick of its head is cut for the client, or replaced by an error of nginx', async t => {
    const { port } = await serve(t, (request, reply) => reply.streamWriter(function * () { yield 'row\n'; throw error() }))
    const text = await open(t, await openNginx(t, port)).end()
    t.match(text, /^HTTP\/1\.1 (200 OK[^]*\r\n4\r\nrow\n\r\n$|502 )/)
    t.notMatch(text, 'secret')
  })

  for (const [reason, end] of endings) {
    t.test(`a body that is ${reason} is cut for the client as well`, async t => {
      const running = await openExport(t)
      const client = open(t, await openNginx(t, running.port))
      // nginx passes each write on: buffering is off by a header of ours.
      await client.until('{"row":2}')
      await end(running)
      const text = await client.end()
      t.match(text, /^HTTP\/1\.1 200 OK\r\nServer: nginx[^]*{"row":2}\n\r\n$/)
      t.notMatch(text, 'secret')
      t.match(await running.outcome(), { reason })
    })
  }
})
