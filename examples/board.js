/**
 * A counter and the cursors of all open tabs.
 */
import { runAlone } from './gallery/app.js'

const place = { type: 'number', minimum: 0, maximum: 1 }
const tab = { type: 'string', pattern: '^[0-9a-f-]{36}$' }
const schema = { body: { type: 'object', required: ['tab', 'x', 'y'], properties: { tab, x: place, y: place } } }
const logLevel = 'silent' // too many to read

/** `next()` gives the next count; processes that share the board have to share it too. */
export default async function board (app, { next = counter() }) {
  // #region
  // The newest count, for as long as can be.
  const clicks = app.streaming.channel('board:clicks', {
    history: { events: 1, age: 2 ** 31 - 1 }
  })
  // Where the cursors were in the last five seconds.
  // Every two seconds, a tab says again where its own is.
  const cursors = app.streaming.channel('board:cursors', {
    history: { events: 500, age: 5_000 }
  })

  app.get('/board/events', (request, reply) =>
    reply.sse([clicks, cursors], { replay: 'all', lag: 'latest' }))

  app.post('/board/clicks', async (request, reply) => {
    const count = await next()
    await clicks.publish({ event: 'count', data: { count } }, { key: 'count' })
    return reply.code(204).send()
  })

  // A tab that reads too slowly gets the newest place of each key.
  app.post('/board/cursor', { schema, logLevel }, async (request, reply) => {
    const { tab, x, y } = request.body
    await cursors.publish({ event: 'cursor', data: { tab, x, y } }, { key: tab })
    return reply.code(204).send()
  })
  // #endregion
}

function counter () {
  let count = 0
  return () => ++count
}

await runAlone(import.meta.url, board)
