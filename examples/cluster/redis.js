/**
 * A Redis: one of our own, or the one that REDIS_URL names where no redis-server is installed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { connect } from './connect.js'
import { end } from './nodes.js'

/** Resolves when it answers. `stop()` ends it if it is our own. */
export async function startRedis () {
  const redis = await startOwn() ?? { url: process.env.REDIS_URL, isOwn: false, async stop () {} }
  if (!redis.url) throw new Error('This needs a Redis: install redis-server, or say where one is with the environment variable REDIS_URL.')
  const { broker, close } = connect(redis.url)
  try {
    await broker.ready()
  } catch (error) {
    await redis.stop()
    throw new Error(`Redis does not answer: ${error.message}`)
  } finally {
    await close()
  }
  return redis
}

/** Only this user can reach it, and it keeps nothing. Resolves with undefined where none is installed. */
async function startOwn () {
  const directory = await mkdtemp(path.join(tmpdir(), 'gallery-'))
  const socket = path.join(directory, 'redis.sock')
  // In a group of its own, so that it does not end with Ctrl-C before those who need it.
  const server = spawn('redis-server', ['--port', '0', '--unixsocket', socket, '--dir', directory, '--save', '', '--appendonly', 'no'], { stdio: 'ignore', detached: true })
  async function stop () {
    await end(server)
    await rm(directory, { recursive: true, force: true })
  }
  try {
    await once(server, 'spawn')
    return { url: socket, isOwn: true, stop }
  } catch {
    await rm(directory, { recursive: true })
  }
}
