/**
 * Follows the log of this app while it is written.
 */
import { EventEmitter } from 'node:events'
import { runAlone } from './gallery/app.js'

// #region
/** Where Fastify's logger writes to. It keeps the last 100 lines. */
class Log extends EventEmitter {
  recent = []
  #id = Date.now() * 1000 // later than before a restart

  constructor (out) {
    super()
    this.out = out
    this.setMaxListeners(Infinity)
  }

  write (text) {
    const line = { id: this.#id++, data: text.trimEnd() }
    if (this.recent.push(line) > 100) this.recent.shift()
    this.out?.write(text)
    this.emit('line', line)
  }
}

export default async function logTail (app, { log }) {
  app.get('/log-tail/lines', (request, reply) => reply.sse((stream, signal) => {
    const last = Number(stream.lastEventId)
    for (const line of log.recent) if (line.id > last) stream.send(line)
    log.on('line', stream.send)
    signal.addEventListener('abort', () => log.off('line', stream.send))
  }))
  // #endregion

  // Something to see.
  app.get('/log-tail/hello', async () => ({ hello: 'log' }))
  app.get('/log-tail/fail', async () => { throw new Error('Thrown on purpose') })
}

/** Options for the app and for this demo: the log goes to the demo, and to the stream `out`. */
export function logInto (out) {
  const log = new Log(out)
  return { logger: { stream: log }, 'log-tail': { log } }
}

await runAlone(import.meta.url, logTail, logInto(process.stdout))
