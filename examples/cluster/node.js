/**
 * One process of the cluster: the gallery, on a port that it tells the process which has started it.
 */
import { buildGallery } from '../server.js'
import { connect } from './connect.js'
import { lease } from './lease.js'

const { client, broker, close } = connect(process.env.REDIS_URL)

const app = await buildGallery({
  plugin: { broker },
  board: { next: () => client.incr('gallery:clicks') },
  ticker: { isMine: lease(client, 'gallery:ticker') }
})
app.addHook('onClose', close)

let isClosing = false
async function stop () {
  if (isClosing) return
  isClosing = true
  await app.close()
  if (process.connected) process.disconnect()
}
process.on('SIGINT', () => {}) // whoever has started this process has got it too
process.on('SIGTERM', stop)
process.on('disconnect', stop)

await app.listen({ host: '127.0.0.1', port: 0 })
process.send(app.server.address().port)
