/**
 * What the demos share: one Fastify app with the plugin in it, a page for each demo, and a way to run one of them alone.
 */
import { realpathSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import Fastify from 'fastify'
import streaming, { transformObject } from 'fastify-streaming'
import { demoPage, indexPage } from './page.js'

const here = fileURLToPath(new URL('.', import.meta.url))
const uplot = path.dirname(createRequire(import.meta.url).resolve('uplot'))

const openapi = { openapi: '3.2.0', info: { title: 'Demos of fastify-streaming', version: '1.0.0' } }
// Pages are no API.
const schema = { hide: true }

/** Builds the app with the given demos (`{ name: plugin }`). It does not listen. `plugin` are the options of the plugin, `options[name]` those of a demo. */
export async function buildApp (demos, { logger = false, plugin = {}, ...options } = {}) {
  // #region
  const app = Fastify({ logger })
  await app.register(streaming, plugin)
  await app.register(swagger, { openapi, transformObject })
  for (const [name, demo] of Object.entries(demos)) {
    await app.register(demo, options[name] ?? {})
  }
  // #endregion
  await app.register(pages, { names: Object.keys(demos) })
  return app
}

/** Listens on 127.0.0.1 and `PORT` (3000), prints the address of `page`, and closes the app on SIGINT and SIGTERM. */
export async function listen (app, page = '/') {
  const port = process.env.PORT ?? 3000
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  try {
    const address = await app.listen({ host: '127.0.0.1', port })
    console.log(`\n  Open ${address}${page}\n`)
  } catch (error) {
    if (error.code !== 'EADDRINUSE') throw error
    console.error(`Port ${port} is in use. Choose another one with the environment variable PORT.`)
    await app.close()
    process.exitCode = 1
  }
}

/** Is the module with this URL the one that Node was started with? */
export function isMain (url) {
  return process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(url)
}

/** Runs one demo without the others if its file is what Node was started with. */
export async function runAlone (url, demo, options) {
  if (!isMain(url)) return
  const name = path.basename(fileURLToPath(url), '.js')
  await listen(await buildApp({ [name]: demo }, { logger: true, ...options }), `/${name}`)
}

async function pages (app, { names }) {
  const html = (reply, page) => reply
    .type('text/html; charset=utf-8')
    .header('cache-control', 'no-cache')
    .header('content-security-policy', "default-src 'self'; img-src 'self' data:")
    .send(page)

  app.get('/', { schema }, async (request, reply) => names.length === 1
    ? reply.redirect(`/${names[0]}`)
    : html(reply, indexPage(names, await readFile(path.join(here, 'app.js'), 'utf8'))))

  for (const name of names) {
    app.get(`/${name}`, { schema }, async (request, reply) => {
      const files = [path.join(here, 'pages', `${name}.html`), path.join(here, '..', `${name}.js`), path.join(here, 'public', `${name}.js`)]
      const [body, server, browser] = await Promise.all(files.map(file => readFile(file, 'utf8')))
      return html(reply, demoPage(names, name, { body, server, browser }))
    })
  }

  // The log is one of the demos: style sheets and scripts stay out of it.
  await app.register(async assets => {
    await assets.register(fastifyStatic, { root: path.join(here, 'public'), prefix: '/assets/' })
    await assets.register(fastifyStatic, { root: uplot, prefix: '/assets/uplot/', decorateReply: false })
  }, { logLevel: 'silent' })
  await app.register(async docs => {
    await docs.register(swaggerUi, { routePrefix: '/documentation' })
  }, { logLevel: 'silent' })
}
