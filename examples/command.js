/**
 * The output of a child process, line by line. It weighs the packages in node_modules, file by file.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { runAlone } from './gallery/app.js'

const script = fileURLToPath(new URL('gallery/weigh.js', import.meta.url))
const modules = path.resolve(createRequire(import.meta.url).resolve('fastify/package.json'), '../..')

export default async function command (app, { pace = 25 }) {
  // #region
  const object = properties =>
    ({ type: 'object', required: Object.keys(properties), properties })
  const events = {
    start: object({ pid: { type: 'integer' } }),
    message: { type: 'string', description: 'A line of the output' },
    exit: object({ code: { type: 'integer' } })
  }

  app.get('/command/output', { schema: { events } }, (request, reply) =>
    reply.sse((stream, signal) => run(signal), { reconnect: false }))

  async function * run (signal) {
    const child = spawn(process.execPath, [script, modules, pace], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const exit = once(child, 'close')
    signal.addEventListener('abort', () => child.kill())
    yield { event: 'start', data: { pid: child.pid } }
    for await (const line of createInterface(child.stdout)) yield line
    const [code] = await exit
    yield { event: 'exit', data: { code } }
  }
  // #endregion
}

await runAlone(import.meta.url, command)
