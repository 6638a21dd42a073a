/**
 * The processes of a benchmark: servers on one core, the client on another.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const file = name => fileURLToPath(new URL(name, import.meta.url))
const canPin = os.availableParallelism() > 1 && has('taskset')

/** The commands that run the programs of this folder; compiles those in C, and throws when there is no compiler. */
export function compile () {
  if (!has('cc')) throw new Error('the load client is written in C: install a C compiler (Debian: build-essential)')
  const folder = mkdtempSync(path.join(os.tmpdir(), 'bench-'))
  process.on('exit', () => rmSync(folder, { recursive: true }))
  for (const name of ['client', 'server']) execFileSync('cc', ['-O2', '-o', path.join(folder, name), file(`${name}.c`)], { stdio: 'inherit' })
  return {
    client: [path.join(folder, 'client')],
    http2Client: [process.execPath, file('http2-client.js')],
    server: [path.join(folder, 'server')]
  }
}

/** True when servers and client are on different cores. */
export const isPinned = canPin

/** A load client, client.c or http2-client.js, by its command. */
export class Client {
  #child
  #lines

  constructor (command) {
    this.#child = spawn(command[0], command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#child.stdin.on('error', () => {})
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  pin () {
    pin(1, this.#child)
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
    await end(this.#child)
  }
}

/** A server of bench/load/server.js, or another program that answers as it does. */
export class Server {
  #child
  #asked = new Map()
  #id = 0
  #hasDied = false
  port
  acknowledgePort

  static async start (library, flags = [], program = file('server.js')) {
    const server = new Server()
    server.#child = spawn(process.execPath, ['--expose-gc', '--no-warnings', program, library, ...flags], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    server.#child.on('message', ({ id, ...answer }) => server.#asked.get(id)?.(answer))
    server.#child.on('exit', () => {
      server.#hasDied = true
      for (const settle of server.#asked.values()) settle({ died: true })
    })
    const { answer } = await server.#answer('ready')
    Object.assign(server, answer)
    return server
  }

  pin (core = 0) {
    pin(core, this.#child)
  }

  /** Resolves with the answer, and the microseconds of CPU until then. */
  async tell (command, options = {}) {
    const id = ++this.#id
    const answered = this.#answer(id)
    // What cannot be sent is not answered: the process is about to exit.
    this.#child.send({ id, command, ...options }, () => {})
    return await answered
  }

  async stop () {
    await end(this.#child)
  }

  async #answer (id) {
    if (this.#hasDied) throw new Error('the server died')
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

  static async start (command) {
    const server = new PlainServer()
    server.#child = spawn(command[0], command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
    const [port] = await once(server.#child.stdout, 'data')
    server.port = Number(port)
    return server
  }

  pin () {
    pin(0, this.#child)
  }

  async tell (command, { turns } = {}) {
    if (command === 'turns') this.#child.stdin.write(`${turns}\n`)
    return { cpu: 0 }
  }

  async stop () {
    await end(this.#child)
  }
}

/** Keeps a process on a core from now on: until then several start at once on all of them. */
export function pin (core, child) {
  if (canPin) execFileSync('taskset', ['-a', '-c', '-p', String(core), String(child.pid)], { stdio: 'ignore' })
}

async function end (child) {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}

function has (program) {
  return (process.env.PATH ?? '').split(path.delimiter).some(folder => existsSync(path.join(folder, program)))
}
