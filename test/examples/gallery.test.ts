import '../fixtures/guard.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { Validator } from '@seriousme/openapi-schema-validator'
import t from 'tap'
import { demos, examples, startGallery } from '../fixtures/gallery.ts'

t.setTimeout(120_000)

const source = (name: string) => readFileSync(path.join(examples, name), 'utf8').replaceAll('\r\n', '\n')

/** The text of a page: tags taken off, numeric character references resolved. */
const text = (html: string) => html.replaceAll(/<[^>]*>/g, '').replaceAll(/&#(\d+);/g, (_, code) => String.fromCharCode(code))

t.test('every demo is one file of at most 60 lines', async t => {
  t.same(readdirSync(examples).filter(name => name.endsWith('.js')).sort(), [...demos, 'server'].map(name => `${name}.js`).sort())
  for (const name of demos) {
    const lines = source(`${name}.js`).trimEnd().split('\n').length
    t.ok(lines <= 60, `examples/${name}.js has ${lines} lines`)
  }
})

t.test('the index lists every demo', async t => {
  const { app } = await startGallery(t)
  const { statusCode, headers, body } = await app.inject('/')
  t.equal(statusCode, 200)
  t.equal(headers['content-type'], 'text/html; charset=utf-8')
  for (const name of demos) t.ok(body.includes(`<a href="/${name}"><strong>`), name)
})

t.test('the index leads to the documentation of the routes, which has the events of the command and is valid', async t => {
  const { app } = await startGallery(t)
  t.match((await app.inject('/')).body, '<a href="/documentation">')
  const page = await app.inject('/documentation')
  t.equal(page.statusCode, 200)
  for (const [, url] of page.body.matchAll(/(?:href|src)="([^"]+)"/g)) t.equal((await app.inject(url)).statusCode, 200, url)
  const document = (await app.inject('/documentation/json')).json()
  t.match(await new Validator().validate(structuredClone(document)), { valid: true })
  t.notOk('/chat' in document.paths)
  const { itemSchema } = document.paths['/command/output'].get.responses[200].content['text/event-stream']
  t.same(itemSchema.oneOf.map(({ properties }: any) => properties.event.enum[0]), ['start', 'message', 'exit', 'position', 'gap', 'error', 'end'])
})

for (const name of demos) {
  t.test(`the page of ${name} shows the code of examples/${name}.js`, async t => {
    const { app } = await startGallery(t)
    const { statusCode, body } = await app.inject(`/${name}`)
    t.equal(statusCode, 200)
    const page = text(body)
    t.ok(page.includes(`examples/${name}.js`))
    const code = source(`${name}.js`).split(/^ *\/\/ #region\n/m).slice(1).map(part => part.split(/^ *\/\/ #endregion/m)[0])
    t.ok(code.length > 0)
    const lines = code.join('').split('\n').map(line => line.trim()).filter(line => line !== '')
    t.same(lines.filter(line => !page.includes(line)), [])
  })
}

t.test('what a page asks for is there', async t => {
  const { app } = await startGallery(t)
  for (const name of ['', ...demos]) {
    const { body } = await app.inject(`/${name}`)
    for (const [, url] of body.matchAll(/(?:href|src)="(\/assets\/[^"]+)"/g)) t.equal((await app.inject(url)).statusCode, 200, url)
  }
})

for (const name of ['server', ...demos]) {
  t.test(`node examples/${name}.js runs, prints where, and ends with SIGTERM`, async t => {
    const child = spawn(process.execPath, [path.join(examples, `${name}.js`)], { env: { PATH: process.env.PATH, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => child.kill('SIGKILL'))
    const exit = once(child, 'exit')
    let output = ''
    child.stdout.setEncoding('utf8').on('data', chunk => { output += chunk })
    while (!/Open \S+\n/.test(output)) await once(child.stdout, 'data')
    const url = /Open (\S+)\n/.exec(output)?.[1] as string
    t.match(url, name === 'server' ? /^http:\/\/127\.0\.0\.1:\d+\/$/ : new RegExp(`^http://127\\.0\\.0\\.1:\\d+/${name}$`))
    const page = await fetch(new URL('/', url), { headers: { connection: 'close' } })
    t.equal(page.status, 200)
    t.equal(page.url, url)
    t.match(await page.text(), name === 'server' ? 'Replies that keep going' : `examples/${name}.js`)
    child.kill('SIGTERM')
    await exit
  })
}
