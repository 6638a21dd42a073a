/**
 * A proxy in front of some processes on this machine: it passes on as it comes, to one after the other.
 */
import http from 'node:http'
import { pipeline } from 'node:stream'

/**
 * Makes the server; it does not listen. `nodes` are those that run, `[{ port, pid }, …]`, and may change. What is not
 * `isShared(url)` goes to the first of them. The header `x-process` of an answer says whose it is.
 */
export function createProxy (nodes, isShared = () => true) {
  let turn = 0
  return http.createServer((request, response) => {
    const first = isShared(request.url) ? turn++ % nodes.length : 0
    forward(request, response, [...nodes.slice(first), ...nodes.slice(0, first)])
  })
}

function forward (request, response, [node, ...others]) {
  if (node === undefined) return fail(request, response) // nobody is left
  const { port, pid } = node
  const { method, url, headers } = request
  const onward = http.request({ host: '127.0.0.1', port, method, path: url, headers: ofMessage(headers), agent: false })
  let isConnected = false
  let isAnswered = false

  onward.on('socket', socket => socket.once('connect', () => {
    isConnected = true
    request.pipe(onward)
  }))
  onward.on('response', answer => {
    isAnswered = true
    response.writeHead(answer.statusCode, { ...ofMessage(answer.headers), 'x-process': pid })
    // The head of a stream, before there is anything to stream.
    response.flushHeaders()
    // Cuts the response when the answer is cut: half of it must not look whole.
    pipeline(answer, response, () => {})
  })
  onward.on('error', () => {
    if (isAnswered || response.destroyed) return
    if (isConnected) fail(request, response)
    else forward(request, response, others) // this one has got nothing of it
  })
  // Who asks has left.
  response.on('close', () => onward.destroy())
}

/** It is not known what has been done. Nobody but who asks knows whether it can be asked for again. */
function fail (request, response) {
  // EventSource gives up for good when it gets an error; when it is cut off, it comes back.
  if (request.headers.accept?.includes('text/event-stream')) response.destroy()
  else response.writeHead(502, { 'content-type': 'text/plain' }).end('The process is gone.\n')
}

/** The headers without those that are about one connection. */
function ofMessage ({ connection, 'keep-alive': keepAlive, ...headers }) {
  return headers
}
