/**
 * A private Redis on a unix socket, in a folder of its own. Only what was started here is stopped.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pin } from '../load/processes.js'
import { connect } from './clients.js'

export class RedisServer {
  #child
  #folder = mkdtempSync(path.join(os.tmpdir(), 'bench-redis-'))
  #connection
  socket = path.join(this.#folder, 's')

  static async start () {
    const server = new RedisServer()
    process.on('exit', () => server.#remove())
    const settings = ['--port', '0', '--unixsocket', server.socket, '--save', '', '--appendonly', 'no', '--dir', server.#folder]
    server.#child = spawn('redis-server', settings, { stdio: ['ignore', 'pipe', 'inherit'] })
    let log = ''
    await new Promise((resolve, reject) => {
      server.#child.on('error', () => reject(new Error('there is no redis-server: install one (Debian: redis-server)')))
      server.#child.on('exit', code => reject(new Error(`redis-server has ended with ${code}: ${log}`)))
      server.#child.stdout.on('data', chunk => {
        log += chunk
        if (log.includes('ready to accept connections at')) resolve()
      })
    })
    pin(1, server.#child)
    server.#connection = await connect('ioredis', server.socket)
    return server
  }

  get version () {
    return /v=(\S+)/.exec(execFileSync('redis-server', ['--version'], { encoding: 'utf8' }))[1]
  }

  async wipe () {
    await this.#connection.send('FLUSHALL')
    await this.#connection.send('CONFIG', 'RESETSTAT')
  }

  /** Microseconds of CPU since it was started. */
  async cpu () {
    const info = await this.#connection.send('INFO', 'cpu')
    return 1e6 * (Number(/used_cpu_sys:(\S+)/.exec(info)[1]) + Number(/used_cpu_user:(\S+)/.exec(info)[1]))
  }

  /** Calls of a command since the last wipe; of those within scripts, too. */
  async calls (command) {
    return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(await this.#connection.send('INFO', 'commandstats'))?.[1] ?? 0)
  }

  async stop () {
    const exit = once(this.#child, 'exit')
    this.#connection.close()
    this.#remove()
    await exit
  }

  #remove () {
    this.#child?.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
