/**
 * A load client for event streams over HTTP/2 without TLS. It speaks the lines of client.c: open, want, tally, close.
 * The streams of `open` are spread over sessions, 100 on each.
 *
 * It reads frames from the socket itself, to do less than the server it asks. That is less than HTTP/2: heads are not
 * decoded (only that the first field is `:status 200`), windows are as large as they can be, and whatever is not expected
 * ends the process with an error. https://httpwg.org/specs/rfc9113.html
 *
 * An event is a blank line: LF LF, also in two frames.
 */
import net from 'node:net'
import process from 'node:process'
import { createInterface } from 'node:readline'

const streamsPerSession = 100
const largestWindow = 2 ** 31 - 1
const frameTypes = { data: 0, headers: 1, settings: 4, ping: 6, goaway: 7, windowUpdate: 8 }
const flagBits = { ack: 1, endStream: 1, endHeaders: 4 }

let sessions = []
let streams = []
let onAllOpen
let unopened = 0
let goal = 0
let unfinished = 0
let onAllDone
let totalBytes = 0

/** The bytes of a session: frames that begin and end anywhere in what the socket gives. */
class Session {
  #socket
  #streams = new Map()
  #head = Buffer.alloc(9)
  #headLength = 0
  #type = 0
  #flags = 0
  #stream
  #left = 0
  #payload = []
  #unacknowledged = 0

  constructor (port) {
    const buffer = Buffer.alloc(256 * 1024)
    this.#socket = net.connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer, callback: length => this.#take(buffer, length) } })
    this.#socket.on('error', fail).on('end', () => fail(new Error('the server has closed a session')))
    this.#socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
    // No table for heads, no pushes, the largest window a stream can have.
    this.#write(frameTypes.settings, 0, 0, Buffer.concat([setting(1, 0), setting(2, 0), setting(4, largestWindow)]))
    this.#write(frameTypes.windowUpdate, 0, 0, uint32(largestWindow - 65_535))
  }

  ask (path) {
    const id = 2 * this.#streams.size + 1
    const stream = { events: 0, last: 0, hasData: false, hasHead: false }
    this.#streams.set(id, stream)
    this.#write(frameTypes.headers, flagBits.endStream | flagBits.endHeaders, id, requestHead(path))
    return stream
  }

  close () {
    this.#socket.destroy()
  }

  #write (type, flags, id, payload) {
    const head = Buffer.alloc(9)
    head.writeUIntBE(payload.length, 0, 3)
    head[3] = type
    head[4] = flags
    head.writeUInt32BE(id, 5)
    this.#socket.write(Buffer.concat([head, payload]))
  }

  #take (buffer, length) {
    let at = 0
    while (at < length) {
      if (this.#headLength < 9) {
        this.#head[this.#headLength++] = buffer[at++]
        if (this.#headLength === 9) this.#begin()
        continue
      }
      const end = Math.min(length, at + this.#left)
      if (this.#type === frameTypes.data) this.#takeData(buffer, at, end)
      else this.#payload.push(Buffer.from(buffer.subarray(at, end)))
      this.#left -= end - at
      at = end
      if (this.#left === 0) this.#finish()
    }
    return true
  }

  #begin () {
    const head = this.#head
    this.#left = head.readUIntBE(0, 3)
    this.#type = head[3]
    this.#flags = head[4]
    this.#stream = this.#streams.get(head.readUInt32BE(5))
    this.#payload = []
    if (this.#type === frameTypes.data && (this.#flags !== 0 || this.#stream?.hasHead !== true)) fail(new Error('a stream has ended, or is padded'))
    if (this.#left === 0) this.#finish()
  }

  #takeData (buffer, from, to) {
    const stream = this.#stream
    countEvents(stream, buffer, from, to)
    totalBytes += to - from
    this.#unacknowledged += to - from
    if (stream.hasData) return
    stream.hasData = true
    if (--unopened === 0) onAllOpen()
  }

  #finish () {
    this.#headLength = 0
    if (this.#type === frameTypes.data) {
      if (this.#unacknowledged < 2 ** 24) return
      this.#write(frameTypes.windowUpdate, 0, 0, uint32(this.#unacknowledged))
      this.#unacknowledged = 0
      return
    }
    const payload = Buffer.concat(this.#payload)
    if (this.#type === frameTypes.headers) {
      // 0x20 says that the table has no room; 0x88 is `:status 200`.
      const isOk = this.#flags === flagBits.endHeaders && payload[payload[0] === 0x20 ? 1 : 0] === 0x88
      if (!isOk || this.#stream === undefined) fail(new Error(`a head that is not 200: ${payload.toString('hex')}`))
      this.#stream.hasHead = true
    } else if (this.#type === frameTypes.settings) {
      if ((this.#flags & flagBits.ack) === 0) this.#write(frameTypes.settings, flagBits.ack, 0, Buffer.alloc(0))
    } else if (this.#type === frameTypes.ping) {
      if ((this.#flags & flagBits.ack) === 0) this.#write(frameTypes.ping, flagBits.ack, 0, payload)
    } else if (this.#type !== frameTypes.windowUpdate) {
      fail(new Error(`a frame of type ${this.#type}: ${payload.toString('hex')}`))
    }
  }
}

function countEvents (stream, buffer, from, to) {
  let { last, events } = stream
  for (let i = from; i < to; i++) {
    const byte = buffer[i]
    if (byte === 10 && last === 10) {
      last = 0
      if (++events === goal && --unfinished === 0) process.nextTick(onAllDone)
    } else {
      last = byte
    }
  }
  stream.last = last
  stream.events = events
}

function uint32 (value) {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function setting (id, value) {
  return Buffer.concat([Buffer.from([0, id]), uint32(value)])
}

/** Fields of HPACK without its table and without Huffman's code. https://httpwg.org/specs/rfc7541.html#appendix.A */
function requestHead (path) {
  const text = value => [value.length, ...Buffer.from(value)]
  const [get, http, pathName, authority, accept] = [[0x82], [0x86], [0x04], [0x01], [0x0f, 0x04]]
  return Buffer.from([...get, ...http, ...pathName, ...text(path), ...authority, ...text('bench'), ...accept, ...text('text/event-stream')])
}

function fail (error) {
  console.error(`client: ${error.message}`)
  process.exit(1)
}

const commands = {
  async open (count, port, path) {
    unopened = Number(count)
    const allOpen = new Promise(resolve => { onAllOpen = resolve })
    for (let i = 0; i < Number(count); i++) {
      if (i % streamsPerSession === 0) sessions.push(new Session(Number(port)))
      streams.push(sessions.at(-1).ask(path))
    }
    await allOpen
    return 'open'
  },
  async want (events) {
    for (const stream of streams) stream.events = 0
    goal = Number(events)
    unfinished = streams.length
    totalBytes = 0
    const before = process.cpuUsage()
    const started = process.hrtime.bigint()
    await new Promise(resolve => { onAllDone = resolve })
    const nanoseconds = process.hrtime.bigint() - started
    const { user, system } = process.cpuUsage(before)
    return `done ${nanoseconds} ${user + system}`
  },
  async tally () {
    const bytes = totalBytes
    totalBytes = 0
    return `tally ${bytes}`
  },
  async close () {
    for (const session of sessions) session.close()
    sessions = []
    streams = []
    return 'closed'
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...words] = line.split(' ')
  console.log(await commands[name](...words))
}
process.exit()
