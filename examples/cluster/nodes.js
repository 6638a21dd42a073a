/**
 * The processes: as many as are asked for, and another one for each that ends.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const script = fileURLToPath(new URL('node.js', import.meta.url))

/**
 * Resolves when all of them listen. `list` is made to have the `{ pid, port }` of those that do, at any time.
 * `stop()` resolves when all have ended.
 */
export async function startNodes (count, redisUrl, list) {
  const env = { ...process.env, REDIS_URL: redisUrl }
  const children = new Set()
  let isOver = false

  /** Resolves when the process listens; rejects when it has ended before. It is replaced in any case. */
  function start () {
    return new Promise((resolve, reject) => {
      const child = fork(script, { env })
      children.add(child)
      child.once('message', port => {
        list.push({ pid: child.pid, port })
        resolve(child.pid)
      })
      child.once('exit', (code, signal) => {
        children.delete(child)
        const place = list.findIndex(({ pid }) => pid === child.pid)
        if (place !== -1) list.splice(place, 1)
        reject(new Error('A process has ended before it could listen.'))
        if (isOver) return
        console.log(`  Process ${child.pid} has ended with ${signal ?? code}.`)
        setTimeout(replace, 1000).unref()
      })
    })
  }

  function replace () {
    if (isOver) return
    start().then(pid => console.log(`  Process ${pid} has taken its place.`), () => {})
  }

  async function stop () {
    isOver = true
    await Promise.all([...children].map(end))
  }

  try {
    await Promise.all(Array.from({ length: count }, start))
  } catch (error) {
    await stop()
    throw error
  }
  return { stop }
}

/** Ends a child process, and resolves when it has ended. One that takes too long is killed. */
export async function end (child) {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), 3000)
  await ended
  clearTimeout(timer)
}
