/**
 * The processes of a benchmark: servers on one core, the client on another.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const file = name => fileURLToPath(new URL(name, import.meta.url))
const canPin = os.availableParallelism() > 1 && has('taskset')

/** Compiles the C programs of this folder; throws when there is no compiler. */
export function compile () {
  if (!has('cc')) throw new Error('the load client is written in C: install a C compiler (Debian: build-essential)')
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bench-'))
  for (const name of ['client', 'server']) execFileSync('cc', ['-O2', '-o', path.join(folder, name), file(`${name}.c`)], { stdio: 'inherit' })
  return { client: path.join(folder, 'client'), server: path.join(folder, 'server') }
}

/** True when servers and client are on different cores. */
export const isPinned = canPin

export class Client {
  #child
  #lines

  constructor (program) {
    this.#child = pinned(1, program, [], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  /** Sends a command, and resolves with the words of the answer; with `answers: false` at once. */
  async tell (command, { answers = true } = {}) {
    this.#child.stdin.write(`${command}\n`)
    if (!answers) return []
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`the client died of: ${command}`)
    return value.split(' ')
  }

  async stop () {
    if (this.#child.exitCode !== null) return
    this.#child.kill()
    await once(this.#child, 'exit')
  }
}

/** A server of bench/load/server.js. */
export class Server {
  #child
  #asked = new Map()
  #id = 0
  port
  acknowledgePort

  static async start (library, flags = [], nodeFlags = []) {
    const server = new Server()
    server.#child = pinned(0, process.execPath, ['--expose-gc', '--no-warnings', ...nodeFlags, file('server.js'), library, ...flags], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    server.#child.on('message', ({ id, ...answer }) => server.#asked.get(id)?.(answer))
    server.#child.on('exit', () => { for (const settle of server.#asked.values()) settle({ died: true }) })
    const { answer } = await server.#answer('ready')
    Object.assign(server, answer)
    return server
  }

  /** Resolves with the answer, and the microseconds of CPU until then. */
  async tell (command, options = {}) {
    const id = ++this.#id
    const answered = this.#answer(id)
    this.#child.send({ id, command, ...options })
    return await answered
  }

  async stop () {
    if (this.#child.exitCode !== null) return
    this.#child.kill()
    await once(this.#child, 'exit')
  }

  async #answer (id) {
    const answer = await new Promise(resolve => this.#asked.set(id, resolve))
    this.#asked.delete(id)
    if (answer.died) throw new Error('the server died')
    return answer
  }
}

/** The C server: what the kernel allows. */
export class PlainServer {
  #child
  port
  acknowledgePort = 0

  static async start (program) {
    const server = new PlainServer()
    server.#child = pinned(0, program, [], { stdio: ['pipe', 'pipe', 'inherit'] })
    const [port] = await once(server.#child.stdout, 'data')
    server.port = Number(port)
    return server
  }

  async tell (command, { turns } = {}) {
    if (command === 'turns') this.#child.stdin.write(`${turns}\n`)
    return { cpu: 0 }
  }

  async stop () {
    this.#child.kill()
    await once(this.#child, 'exit')
  }
}

function pinned (core, program, args, options) {
  return canPin ? spawn('taskset', ['-c', String(core), program, ...args], options) : spawn(program, args, options)
}

function has (program) {
  return (process.env.PATH ?? '').split(path.delimiter).some(folder => existsSync(path.join(folder, program)))
}
