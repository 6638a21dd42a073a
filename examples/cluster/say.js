/**
 * Says something in the chat room of the gallery: `REDIS_URL=… node examples/cluster/say.js "Hello"`
 */
import { createChannels } from 'fastify-streaming'
import { openRoom } from '../room.js'
import { connect } from './connect.js'

const text = process.argv[2]?.trim()
if (!text || !process.env.REDIS_URL) {
  console.error('REDIS_URL=… node examples/cluster/say.js "Hello" (npm run start:cluster prints it)')
  process.exit(1)
}

const { broker, close } = connect(process.env.REDIS_URL)
const channels = createChannels({ broker })
try {
  await openRoom(channels).publish({ data: { name: 'A script', text, time: Date.now() } })
} finally {
  await channels.close()
  await close()
}
