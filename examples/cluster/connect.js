/**
 * The broker of this cluster, for its processes and for scripts.
 */
import { redisBroker } from 'fastify-streaming/redis'
import { Redis } from 'ioredis'

/** `url` is that of a Redis (`redis://…`), or the path of its socket. */
export function connect (url) {
  const client = new Redis(url)
  const broker = redisBroker({ client, prefix: 'gallery' })
  // The client is ours, so we close it; after the broker.
  async function close () {
    await broker.close()
    client.disconnect()
  }
  return { client, broker, close }
}
