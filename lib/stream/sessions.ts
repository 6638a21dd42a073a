/**
 * Closes the HTTP/2 sessions that have carried a stream: `server.close()` waits for their clients otherwise.
 */
import type { ServerHttp2Session } from 'node:http2'
import type { RawResponse } from './connection.ts'
import { ignoreRejection } from './promise-like.ts'

export class SessionCloser {
  /** With what destroys the socket. */
  readonly #sessions = new Map<ServerHttp2Session, () => void>()
  #grace = 0

  /** Remembers the session of a response; while the app closes, ends it after the response (`late`). */
  add (response: RawResponse, late?: Promise<unknown>): void {
    if (!('stream' in response)) return
    const session = response.stream.session as ServerHttp2Session | undefined
    if (session === undefined || this.#sessions.has(session)) return
    const destroy = socketDestroyer(session)
    this.#sessions.set(session, destroy)
    session.once('close', () => this.#sessions.delete(session))
    if (late !== undefined) void end([[session, destroy]], this.#grace, late)
  }

  /** Sends GOAWAY on each session; those that are not over `grace` milliseconds later, and after `streams`, are destroyed. Resolves when none is left. */
  async close (grace: number, streams: Promise<unknown>): Promise<void> {
    this.#grace = grace
    await end([...this.#sessions], grace, streams)
  }
}

async function end (sessions: Array<[ServerHttp2Session, () => void]>, grace: number, streams: Promise<unknown>): Promise<void> {
  const timer = setTimeout(async () => {
    // The farewell of a stream may take longer.
    await streams
    for (const [session, destroySocket] of sessions) {
      session.destroy()
      destroySocket()
    }
  }, grace)
  await Promise.all(sessions.map(async ([session]) => await new Promise<void>(resolve => {
    session.once('close', resolve)
    session.close()
  })))
  clearTimeout(timer)
}

// A session that was closed before it is destroyed goes on waiting for its client, and hands its socket out for use only.
function socketDestroyer ({ socket }: ServerHttp2Session): () => void {
  socket.on('error', () => {})
  // Node.js 20 has it since 20.4.
  const destroy = socket[Symbol.asyncDispose] as (() => Promise<void>) | undefined
  return () => ignoreRejection(destroy?.())
}
