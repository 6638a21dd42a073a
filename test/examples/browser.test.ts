import '../fixtures/guard.ts'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import path from 'node:path'
import { chromium, type Browser, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { startCluster } from '../fixtures/cluster.ts'
import { eventually } from '../fixtures/clock.ts'
import { catsAndDogs, demos, isGone, startGallery } from '../fixtures/gallery.ts'
import { hasRedis } from '../fixtures/redis-server.ts'

t.setTimeout(300_000)

const executablePath = '/usr/bin/chromium'
const args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
// On a machine of the CI it has to be there.
const skip = !existsSync(executablePath) && process.env.CI !== 'true' && `there is no ${executablePath}`

let browser: Browser
t.before(async () => {
  if (!skip) browser = await chromium.launch({ executablePath, args, timeout: 120_000 })
})
t.teardown(() => browser?.close())

/** What the pages of all these tests have written to their consoles. */
const problems: string[] = []

/** A tab of its own. */
async function visit (t: Test, url: string, waitUntil: 'load' | 'commit' = 'load'): Promise<Page> {
  const page = await browser.newPage()
  page.on('pageerror', error => { problems.push(`${page.url()}: ${error}`) })
  page.on('console', message => { if (['error', 'warning'].includes(message.type())) problems.push(`${page.url()}: ${message.text()}`) })
  t.teardown(() => page.close())
  page.setDefaultTimeout(60_000)
  await page.goto(url, { waitUntil })
  return page
}

/** Resolves when the panel says so: open, done, stopped or failed. */
async function state (page: Page, name: string): Promise<void> {
  await page.locator(`#live[data-state=${name}]`).waitFor()
}

/** Resolves when an element has text like this. */
async function shows (page: Page, selector: string, hasText: RegExp | string): Promise<void> {
  await page.locator(selector, { hasText }).first().waitFor()
}

const pets = (t: Test) => path.join(t.testdir({ 'README.md': catsAndDogs.text }), 'README.md')

t.test('the index shows this process live, and leads to every demo', { skip }, async t => {
  const { url } = await startGallery(t, { metrics: { pace: 50 } })
  const page = await visit(t, url)
  await shows(page, '#now', /^CPU \d+ %, [\d.]+ MB, 1 open stream$/)
  t.same(await page.locator('.demos a').evaluateAll(links => links.map(link => link.getAttribute('href'))), demos.map(name => `/${name}`))
  for (const name of demos) {
    await page.locator(`nav a[href="/${name}"]`).click()
    await page.waitForURL(`${url}/${name}`)
    await shows(page, 'figcaption', `examples/${name}.js`)
  }
})

t.test('chat: the answer grows while it is typed, and Stop stops the typing on the server', { skip }, async t => {
  const { app, url, outcome } = await startGallery(t, { chat: { pace: 10, readme: pets(t) } })
  const page = await visit(t, `${url}/chat`)
  await page.fill('#question', 'cats')
  await page.press('#question', 'Enter')
  await state(page, 'open')
  const lengths: number[] = []
  for (const length of [10, 30, 50]) {
    await shows(page, '#answer', new RegExp(`[^]{${length}}`))
    lengths.push((await page.locator('#answer').innerText()).length)
  }
  t.ok(lengths[0] < lengths[1] && lengths[1] < lengths[2], lengths.join(' '))
  t.equal(app.streaming.open, 1)
  await page.click('#stop')
  const { reason, events } = await outcome('/chat/answer')
  t.equal(reason, 'disconnected')
  t.ok(events < catsAndDogs.long.length, `${events} of ${catsAndDogs.long.length} characters`)
  await state(page, 'stopped')
  t.equal(app.streaming.open, 0)
})

t.test('chat: closing the tab releases the source', { skip }, async t => {
  const { app, url, outcome } = await startGallery(t, { chat: { pace: 10, readme: pets(t) } })
  const page = await visit(t, `${url}/chat`)
  await page.fill('#question', 'cats')
  await page.click('#ask button')
  await shows(page, '#answer', /[^]{10}/)
  await page.close()
  t.match(await outcome('/chat/answer'), { reason: 'disconnected' })
  t.equal(app.streaming.open, 0)
})

t.test('chat: a finished answer does not start again', { skip }, async t => {
  const { url, lines } = await startGallery(t, { chat: { pace: 1, readme: pets(t) } })
  const page = await visit(t, `${url}/chat`)
  await page.fill('#question', 'dogs')
  await page.click('#ask button')
  await shows(page, '#status', 'The browser asked once more, got 204 and stopped.')
  t.equal(await page.locator('#answer h3').innerText(), 'Dogs')
  t.equal(await page.locator('#answer p').innerText(), 'A dog barks at whoever passes the fence, wags its tail, and follows a ball — however far. 🐕')
  t.equal(lines.filter(({ req }) => req?.url.startsWith('/chat/answer')).length, 2)
  t.equal(lines.filter(({ stream }) => stream?.reason === 'completed' && stream.events > 0).length, 1)
})

t.test('metrics: draws what comes, until Stop', { skip }, async t => {
  const { app, url, outcome } = await startGallery(t, { metrics: { pace: 50 } })
  const page = await visit(t, `${url}/metrics`)
  await shows(page, '#count', /^\d{2,}$/)
  const captions = await page.locator('#charts figcaption').allInnerTexts()
  t.match(captions, [/^CPU\s*\d+ % of one core$/, /^Memory\s*[\d.]+ MB resident\s*[\d.]+ MB heap$/, /^Event-loop delay\s*[\d.]+ ms longest\s*(?:[\d.]+ ms|–) mean$/, /^Open streams\s*1 now$/])
  // The colour of the line, and not only that of the axes.
  t.same(await page.evaluate(`[...document.querySelectorAll('#charts canvas')].map(canvas => {
    const dot = document.createElement('canvas').getContext('2d')
    dot.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--pen').trim()
    dot.fillRect(0, 0, 1, 1)
    const [red, green, blue] = dot.getImageData(0, 0, 1, 1).data
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
    for (let n = 0; n < data.length; n += 4) {
      if (data[n + 3] > 60 && Math.abs(data[n] - red) + Math.abs(data[n + 1] - green) + Math.abs(data[n + 2] - blue) < 40) return true
    }
    return false
  })`), [true, true, true, true])
  await page.click('#stop')
  t.match(await outcome('/metrics/live'), { reason: 'disconnected' })
  t.equal(app.streaming.open, 0)
})

t.test('primes: the text grows while it loads, until Stop', { skip }, async t => {
  const { app, url, outcome } = await startGallery(t, { primes: { pace: 5 } })
  const page = await visit(t, `${url}/primes`)
  await page.click('#start')
  for (const prime of [5, 29, 71]) {
    await shows(page, '#text', new RegExp(`\\b${prime}\\s`))
    t.equal(app.streaming.open, 1, `still loading at ${prime}`)
  }
  t.ok(await page.evaluate("document.querySelector('#spiral').getContext('2d').getImageData(0, 0, 317, 317).data.some(byte => byte > 0)"), 'the spiral is drawn')
  await page.click('#stop')
  t.match(await outcome('/primes/text'), { reason: 'disconnected' })
  await state(page, 'stopped')
})

t.test('primes: the text in a tab of its own grows while it loads, until the tab is closed', { skip }, async t => {
  const { app, url, outcome } = await startGallery(t, { primes: { pace: 1 } })
  const page = await visit(t, `${url}/primes/text`, 'commit')
  await shows(page, 'body', /\s101\s/)
  t.equal(app.streaming.open, 1)
  await page.close()
  t.match(await outcome('/primes/text'), { reason: 'disconnected' })
})

t.test('export: the progress bar reaches the end with the last of 100,000 rows', { skip }, async t => {
  const { url, outcome } = await startGallery(t)
  const page = await visit(t, `${url}/export`)
  await page.click('#start')
  await state(page, 'done')
  t.equal(await page.locator('#progress').evaluate((bar: any) => bar.position), 1)
  t.equal(await page.locator('#rows').innerText(), '100,000 of 100,000')
  t.match(JSON.parse(await page.locator('#row').innerText()), { date: '2073-10-15' })
  t.match(await outcome('/export/days.ndjson'), { reason: 'completed' })
  t.match(await outcome('/export/memory'), { reason: 'disconnected' })
})

t.test('log tail: a request to the app shows up live for two viewers', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const pages = [await visit(t, `${url}/log-tail`), await visit(t, `${url}/log-tail`)]
  for (const page of pages) await state(page, 'open')
  await pages[0].click('[data-request="/log-tail/hello"]')
  for (const page of pages) {
    await shows(page, '#lines p', /incoming request GET \/log-tail\/hello/)
    await page.click('#stop')
    await state(page, 'stopped')
  }
  await eventually(() => app.streaming.open === 0)
})

t.test('command: lines arrive one by one, and the process is killed when the tab is closed', { skip }, async t => {
  const { app, url } = await startGallery(t, { command: { pace: 30 } })
  const page = await visit(t, `${url}/command`)
  await page.click('#start')
  await shows(page, '#process', /^Process \d+/)
  const pid = Number(/\d+/.exec(await page.locator('#process').innerText())?.[0])
  for (const count of [1, 3, 6]) {
    await shows(page, '#output', new RegExp(`(kB  \\S+ \\S+  \\d+ files[^]*){${count}}`))
    t.equal(isGone(pid), false, `still running after ${count} lines`)
  }
  await page.close()
  await eventually(() => isGone(pid))
  await eventually(() => app.streaming.open === 0)
})

t.test('command: Stop kills the process', { skip }, async t => {
  const { url } = await startGallery(t, { command: { pace: 30 } })
  const page = await visit(t, `${url}/command`)
  await page.click('#start')
  await shows(page, '#process', /^Process \d+/)
  const pid = Number(/\d+/.exec(await page.locator('#process').innerText())?.[0])
  await page.click('#stop')
  await eventually(() => isGone(pid))
  await state(page, 'stopped')
})

t.test('upload: shows progress, and the SHA-256 that the browser has computed too', { skip }, async t => {
  const { url, outcome } = await startGallery(t)
  const buffer = randomBytes(3_000_000)
  const page = await visit(t, `${url}/upload`)
  await page.setInputFiles('#file', { name: 'some bytes', mimeType: 'application/octet-stream', buffer })
  await shows(page, '#verdict', 'Both are the same')
  t.equal(await page.locator('#theirs').innerText(), createHash('sha256').update(buffer).digest('hex'))
  t.equal(await page.locator('#received').innerText(), '3.0 MB of 3.0 MB')
  t.equal(await page.locator('#progress').evaluate((bar: any) => bar.position), 1)
  t.ok(Number(await page.locator('#count').innerText()) > 2, 'progress came before the end')
  await state(page, 'done')
  t.match(await outcome('/upload/'), { reason: 'closed' })
})

t.test('upload: Stop ends both requests', { skip }, async t => {
  const { app, url, outcome } = await startGallery(t)
  const page = await visit(t, `${url}/upload`)
  await page.click('#random')
  await shows(page, '#count', /^[1-9]/)
  await page.click('#stop')
  await state(page, 'stopped')
  t.match(await outcome('/upload/'), { reason: 'disconnected' })
  t.equal(app.streaming.open, 0)
})

t.test('board: a click and a cursor show up in every tab, and a new tab is given both', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const pages = [await visit(t, `${url}/board`), await visit(t, `${url}/board`)]
  for (const page of pages) await state(page, 'open')
  for (const page of pages) await page.click('#add')
  await pages[0].hover('#board', { position: { x: 100, y: 80 } })
  pages.push(await visit(t, `${url}/board`))
  for (const page of pages) {
    await page.locator('#total', { hasText: /^2$/ }).waitFor()
    const place = await page.locator('.cursor').evaluate(({ style }: any) => [style.left, style.top].map(parseFloat))
    const { width, height } = await page.locator('#board').boundingBox() as { width: number, height: number }
    t.ok(Math.abs(place[0] - 100 / width * 100) < 1 && Math.abs(place[1] - 80 / height * 100) < 1, place.join(' '))
  }
  t.same(await Promise.all(pages.map(page => page.locator('.cursor').innerText())).then(names => names.map(name => name === 'you')), [true, false, false])
  t.equal(app.streaming.stats().subscribers, 6, 'two channels a tab')
  for (const page of pages) await page.close()
  await eventually(() => app.streaming.stats().subscribers === 0)
})

t.test('board: the arrow keys move a cursor, and Stop leaves', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const pages = [await visit(t, `${url}/board`), await visit(t, `${url}/board`)]
  for (const page of pages) await state(page, 'open')
  await pages[0].focus('#board')
  for (const key of ['ArrowLeft', 'ArrowLeft', 'ArrowDown']) await pages[0].press('#board', key)
  await pages[1].locator('.cursor[style*="left: 45%"][style*="top: 55%"]').waitFor()
  for (const page of pages) {
    await page.click('#stop')
    await state(page, 'stopped')
  }
  await eventually(() => app.streaming.stats().subscribers === 0)
  await pages[1].click('#stop')
  await state(pages[1], 'open')
})

/** The texts of the messages on a page. */
const messages = async (page: Page) => await page.locator('#messages .message span:last-child').allInnerTexts()

async function say (page: Page, text: string): Promise<void> {
  await page.fill('#text', text)
  await page.press('#text', 'Enter')
  await shows(page, '#messages .message', text)
}

t.test('room: two tabs talk, a third is given what was said, and what is said is text', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const pages = [await visit(t, `${url}/room`), await visit(t, `${url}/room`)]
  await pages[0].fill('#name', '<i>Ada</i>')
  await say(pages[0], '<img src=x onerror=document.title=1> Hello?')
  await say(pages[1], 'Here.')
  pages.push(await visit(t, `${url}/room`))
  for (const page of pages) {
    await shows(page, '#messages .message', 'Here.')
    t.same(await messages(page), ['<img src=x onerror=document.title=1> Hello?', 'Here.'])
    t.equal(await page.locator('#messages .message').first().locator('span').nth(1).innerText(), '<i>Ada</i>')
  }
  t.equal(await pages[0].inputValue('#text'), '')
  t.equal(app.streaming.stats().subscribers, 3)
  for (const page of pages) await page.close()
  await eventually(() => app.streaming.stats().subscribers === 0)
})

t.test('room: when the server cuts all connections, the tabs come back by themselves and miss nothing', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const pages = [await visit(t, `${url}/room`), await visit(t, `${url}/room`)]
  for (const page of pages) await state(page, 'open')
  await say(pages[0], 'before')
  await shows(pages[1], '#messages .message', 'before')
  const closed = pages.map(page => state(page, 'failed'))
  await pages[0].click('#cut')
  await app.inject({ method: 'POST', url: '/room/messages', payload: { id: randomUUID(), name: 'Ada', text: 'meanwhile' } })
  await Promise.all(closed)
  for (const page of pages) {
    await shows(page, '#status', 'Back, and nothing is missing.')
    await shows(page, '#messages .message', 'meanwhile')
    t.same(await messages(page), ['before', 'meanwhile'])
  }
})

/** Stands between browsers and a server. When it is cut, its connections are reset, and new ones get no answer until it is mended. */
async function cable (t: Test, to: string) {
  const sockets = new Set<Socket>()
  let isCut = false
  let waiting: Socket[] = []
  const pass = (socket: Socket) => {
    const upstream = connect(Number(new URL(to).port), '127.0.0.1')
    for (const [one, other] of [[socket, upstream], [upstream, socket]]) {
      sockets.add(one)
      one.on('error', () => {}).on('close', () => {
        sockets.delete(one)
        other.destroy()
      }).pipe(other)
    }
  }
  const server = createServer(socket => { isCut ? waiting.push(socket) : pass(socket) })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const cut = () => {
    isCut = true
    for (const socket of sockets) socket.resetAndDestroy()
  }
  t.teardown(() => {
    cut()
    for (const socket of waiting) socket.destroy()
    server.close()
  })
  const mend = () => {
    isCut = false
    for (const socket of waiting) pass(socket)
    waiting = []
  }
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cut, mend }
}

for (const [missed, keep] of [[20, 100], [20, 5]]) {
  t.test(`room: a tab that was cut off ${keep < missed ? 'is told that not all it has missed is there' : 'is given all it has missed, once and in order'}`, { skip }, async t => {
    const { app, url } = await startGallery(t, { room: { keep } })
    const { url: unstable, cut, mend } = await cable(t, url)
    const [away, here] = [await visit(t, `${unstable}/room`), await visit(t, `${url}/room`)]
    for (const page of [away, here]) await state(page, 'open')
    await say(away, 'from the tab')
    await say(here, 'to the tab')
    await shows(away, '#messages .message', 'to the tab')
    cut()
    await state(away, 'failed')
    await eventually(() => app.streaming.stats().subscribers === 1)
    const texts = Array.from({ length: missed }, (_, n) => `message ${n + 1}.`)
    for (const text of texts) await say(here, text)
    mend()
    await shows(away, '#status', keep < missed ? 'Back. Some messages are missing.' : 'Back, and nothing is missing.')
    await say(away, 'Thanks.')
    await shows(here, '#messages .message', 'Thanks.')
    t.same(await messages(here), ['from the tab', 'to the tab', ...texts, 'Thanks.'])
    t.same(await messages(away), ['from the tab', 'to the tab', ...texts.slice(-keep), 'Thanks.'])
    t.same(await away.locator('#messages .gap').allInnerTexts(), keep < missed ? ['Here some messages are missing: more was written than the server keeps.'] : [])
    t.equal(app.streaming.stats().gaps, keep < missed ? 1 : 0)
    for (const page of [away, here]) await page.close()
    await eventually(() => app.streaming.stats().subscribers === 0)
    // A browser writes that a request was cut; more than that would be a problem.
    for (const problem of problems.filter(problem => problem.startsWith(unstable) && problem.includes('net::ERR_'))) problems.splice(problems.indexOf(problem), 1)
  })
}

t.test('room: a message that could not be sent is sent again by itself, then by hand, and is there once', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const page = await visit(t, `${url}/room`)
  await state(page, 'open')
  // The answer is lost, not the message.
  await page.route('**/room/messages', async route => {
    if (route.request().method() === 'GET') return await route.fallback()
    await route.fetch()
    await route.abort()
  }, { times: 3 })
  await page.fill('#text', 'Are you there?')
  await page.press('#text', 'Enter')
  await shows(page, '#problem', /^Not sent: .+ Sending it again\.$/)
  await shows(page, '#problem', /^Not sent: .+ Send it again\.$/)
  t.equal(await page.inputValue('#text'), 'Are you there?')
  await page.press('#text', 'Enter')
  await page.locator('#problem:empty').waitFor({ state: 'attached' })
  await say(page, 'Good.')
  t.same(await messages(page), ['Are you there?', 'Good.'])
  t.equal(app.streaming.stats().subscribers, 1)
  for (const problem of problems.filter(problem => problem.startsWith(url) && problem.includes('net::ERR_FAILED'))) problems.splice(problems.indexOf(problem), 1)
})

t.test('room: two tabs at two processes go on talking while one process is killed, and nothing is lost', { skip: skip || (!hasRedis && 'there is no redis-server') }, async t => {
  const { url, pids: [killed], says } = await startCluster(t)
  // They are at the one process and the other, and so are the requests that follow.
  const [ada, bob] = [await visit(t, `${url}/room`), await visit(t, `${url}/room`)]
  for (const page of [ada, bob]) await state(page, 'open')
  const texts = ['Hello, Bob.', 'Hello, Ada.']
  await say(ada, texts[0])
  await say(bob, texts[1])

  // One of these arrives, and the other one is on its way when its process dies.
  process.kill(killed, 'SIGSTOP')
  const both = [[ada, 'Are you there?'], [bob, 'Are you?']] as const
  for (const [page, text] of both) {
    await page.fill('#text', text)
    await page.press('#text', 'Enter')
  }
  const isSaid = both.flatMap(([, text]) => [ada, bob].map(async page => { await shows(page, '#messages .message', text) }))
  await Promise.any(isSaid)
  const isCut = Promise.any([ada, bob].map(async page => { await state(page, 'failed') }))
  const isTold = Promise.any([ada, bob].map(async page => { await shows(page, '#problem', 'Not sent: 502. Sending it again.') }))
  process.kill(killed, 'SIGKILL')
  await isTold
  await isCut
  await Promise.all(isSaid)
  texts.push(...both.map(([, text]) => text))

  await Promise.all([[ada, 'Ada'], [bob, 'Bob']].map(async ([page, name]) => {
    for (let n = 1; n <= 15; n++) {
      texts.push(`${name as string} says ${n}.`)
      await say(page as Page, texts.at(-1) as string)
    }
  }))
  await says(/Process \d+ has taken its place\./)
  for (const page of [ada, bob]) {
    await state(page, 'open')
    await page.locator('#messages .message').nth(texts.length - 1).waitFor()
    t.same((await messages(page)).toSorted(), texts.toSorted(), 'each of them once')
    t.equal(await page.locator('#messages .gap').count(), 0)
    t.equal(await page.locator('#problem').innerText(), '')
  }
  t.same(await messages(ada), await messages(bob), 'in the same order')
  t.same((await Promise.all([ada, bob].map(page => page.locator('#status').innerText()))).toSorted(), ['Back, and nothing is missing.', 'In the room.'])
  // A browser writes what was cut, and the 502.
  for (const problem of problems.filter(problem => problem.startsWith(url) && /net::ERR_|502/.test(problem))) problems.splice(problems.indexOf(problem), 1)
})

t.test('ticker: every tab shows hundreds of prices a second, and none are made when all tabs are closed', { skip }, async t => {
  const { app, url } = await startGallery(t)
  const pages = [await visit(t, `${url}/ticker`), await visit(t, `${url}/ticker`)]
  for (const page of pages) {
    await shows(page, '#speed', /^[3-7]\d\d$/)
    await page.locator('#prices tr').nth(19).waitFor()
    t.match(await page.locator('#prices tr').allInnerTexts(), Array(20).fill(/^[A-Z]+\s+\d+\.\d\d\s+[▲▼] \d+\.\d\d %$/))
    const names = await page.locator('#prices th').allInnerTexts()
    t.same(names, names.toSorted())
    t.equal(await page.locator('#left-out').innerText(), '0')
  }
  await pages[0].click('#stop')
  await state(pages[0], 'stopped')
  await eventually(() => app.streaming.stats().subscribers === 1)
  for (const page of pages) await page.close()
  await eventually(() => app.streaming.stats().subscribers === 0)
  t.equal(app.streaming.channel('ticker').size, 0)
})

for (const name of demos) {
  t.test(`the page of ${name} works with a keyboard and a screen reader, and fits on a phone`, { skip }, async t => {
    const { url } = await startGallery(t)
    const page = await visit(t, `${url}/${name}`)
    await page.setViewportSize({ width: 390, height: 800 })
    t.equal(await page.evaluate('document.documentElement.scrollWidth'), 390)
    t.equal(await page.locator('html').getAttribute('lang'), 'en')
    t.equal(await page.locator('h1').count(), 1)
    const session = await page.context().newCDPSession(page)
    const { nodes } = await session.send('Accessibility.getFullAXTree')
    const controls = nodes.filter(({ properties = [], role }) =>
      properties.some(({ name, value }) => name === 'focusable' && value.value) || ['image', 'log', 'table'].includes(role?.value))
    t.ok(controls.length > demos.length)
    t.same(controls.filter(({ name }) => !name?.value).map(({ role }) => role?.value), [], 'each has a name')
    const reachable = await page.locator('a, button:not([disabled]), input:not([disabled]), summary, [tabindex="0"]').evaluateAll((elements: any[]) => {
      elements = elements.filter(element => element.checkVisibility())
      for (const [n, element] of elements.entries()) element.dataset.n = n
      return elements.length
    })
    const reached = new Set<string>()
    for (let n = 0; n < reachable; n++) {
      await page.keyboard.press('Tab')
      reached.add(await page.evaluate('document.activeElement.dataset.n'))
    }
    t.equal(reached.size, reachable, 'Tab leads to each')
  })
}

t.test('no page has written an error or a warning to its console', { skip }, async t => {
  t.same(problems, [])
})
