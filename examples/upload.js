/**
 * A file is sent with one request; what the server has received comes back as the events of another.
 */
import { createHash } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { runAlone } from './gallery/app.js'

const schema = { querystring: { type: 'object', properties: { pace: { type: 'integer', minimum: 0, maximum: 100, default: 0 } } } }

export default async function upload (app) {
  const watchers = new Map()
  app.addContentTypeParser('application/octet-stream', (request, payload, done) => done(null, payload))

  // #region
  // A browser reads a response only after it has sent the whole request.
  // So the progress has a request of its own.
  app.get('/upload/:id/events', async (request, reply) => {
    const stream = await reply.sse()
    watchers.set(request.params.id, stream)
    stream.closed.then(() => watchers.delete(request.params.id))
  })

  app.post('/upload/:id', { schema }, async (request, reply) => {
    const watcher = watchers.get(request.params.id)
    if (!watcher) return reply.callNotFound()
    const hash = createHash('sha256')
    let received = 0
    try {
      for await (const chunk of request.body) {
        hash.update(chunk)
        received += chunk.length
        // No more events than the watcher reads.
        if (watcher.bufferedBytes === 0) {
          watcher.send({ event: 'progress', data: { received } })
        }
        if (request.query.pace) await setTimeout(request.query.pace)
      }
    } catch (error) {
      if (request.raw.aborted) return // whoever was sending has left
      throw error
    }
    const result = { received, sha256: hash.digest('hex') }
    await watcher.send({ event: 'done', data: result })
    watcher.close()
    return result
  })
  // #endregion
}

await runAlone(import.meta.url, upload)
