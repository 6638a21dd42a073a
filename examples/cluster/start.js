/**
 * The gallery in two processes behind a proxy, with a Redis that carries the channels. `npm run start:cluster`
 */
import { once } from 'node:events'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { startNodes } from './nodes.js'
import { createProxy } from './proxy.js'
import { startRedis } from './redis.js'

const port = process.env.PORT ?? 3000

// What these demos know is in channels, and any process will do. Of what the others know, each process has its own:
// all their requests go to the same one. An upload and its progress would not meet otherwise.
const isShared = url => /^\/(?:room|board|ticker)\//.test(url)

const started = []
let stopping

/** Stops what was started, the last one first. The proxy passes on how streams end. */
function stop () {
  stopping ??= (async () => {
    while (started.length > 0) await started.pop().stop()
  })()
  return stopping
}

/** Stops it with all others, or now when they are stopped already. */
async function use (starting) {
  const it = await starting
  if (stopping) {
    await it.stop()
    throw new Error('Stopped.')
  }
  started.push(it)
  return it
}

async function listen (proxy) {
  await once(proxy.listen(port, '127.0.0.1'), 'listening')
  return {
    address: `http://127.0.0.1:${proxy.address().port}`,
    async stop () {
      proxy.close()
      proxy.closeAllConnections()
    }
  }
}

// Ctrl-C reaches the other processes too. They wait for this one.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop)

try {
  const nodes = []
  const { address } = await use(listen(createProxy(nodes, isShared)))
  const redis = await use(startRedis())
  await use(startNodes(2, redis.url, nodes))
  const [one, other] = nodes
  const say = path.relative('', fileURLToPath(new URL('say.js', import.meta.url)))
  console.log(`
  Open ${address}/room

  Two processes answer in turn: ${one.pid} and ${other.pid}. Kill one while you chat; another one takes its place:
    kill -9 ${one.pid}

  Write into the room from a script:
    ${redis.isOwn ? `REDIS_URL=${redis.url} ` : ''}node ${say} "Hello from a script"
`)
} catch (error) {
  if (!stopping) {
    console.error(error.code === 'EADDRINUSE' ? `Port ${port} is in use. Choose another one with the environment variable PORT.` : error.message)
    process.exitCode = 1
  }
  await stop()
}
