/**
 * A room to chat in. Whoever joins is given what was said, and whoever comes back what they have missed.
 */
import { runAlone } from './gallery/app.js'

const text = maxLength => ({ type: 'string', maxLength, pattern: '\\S' })
const id = { type: 'string', pattern: '^[0-9a-f-]{36}$' }
const schema = { body: { type: 'object', required: ['id', 'name', 'text'], properties: { id, name: text(24), text: text(500) } } }
const bodyLimit = 8192

// #region
// Of an app, or of a script (examples/cluster/say.js): whoever
// publishes says what is kept, so all of them say the same.
export function openRoom (channels, keep = 100) {
  return channels.channel('room', {
    history: { events: keep, age: 3_600_000 }
  })
}
// #endregion

export default async function room (app, { keep }) {
  // #region
  const room = openRoom(app.streaming, keep)
  let line = new AbortController()

  app.get('/room/messages', (request, reply) =>
    reply.sse(room, { replay: 'all', retry: 1000, signal: line.signal }))

  // The browser makes the id: what it sends once more is there once.
  app.post('/room/messages', { schema, bodyLimit }, async (request, reply) => {
    const { id, name, text } = request.body
    const data = { name, text, time: Date.now() }
    await room.publish({ data }, { idempotencyKey: id })
    return reply.code(204).send()
  })

  // Something to see: every browser comes back after a second.
  app.post('/room/cut', async (request, reply) => {
    line.abort()
    line = new AbortController()
    return reply.code(204).send()
  })
  // #endregion
}

await runAlone(import.meta.url, room)
