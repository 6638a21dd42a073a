/**
 * Closes the HTTP/2 sessions that have carried a stream: `server.close()` waits for their clients otherwise.
 */
import type { ServerHttp2Session } from 'node:http2'
import type { RawResponse } from './connection.ts'

export class SessionCloser {
  readonly #sessions = new Set<ServerHttp2Session>()
  #grace = 0

  /** Remembers the session of a response; while the app closes, ends it after the response (`late`). */
  add (response: RawResponse, late?: Promise<unknown>): void {
    if (!('stream' in response)) return
    const session = response.stream.session as ServerHttp2Session | undefined
    if (session === undefined || this.#sessions.has(session)) return
    this.#sessions.add(session)
    session.once('close', () => this.#sessions.delete(session))
    if (late !== undefined) void end([session], this.#grace, late)
  }

  /** Sends GOAWAY on each session; those that are not over `grace` milliseconds later, and after `streams`, are destroyed. Resolves when none is left. */
  async close (grace: number, streams: Promise<unknown>): Promise<void> {
    this.#grace = grace
    await end([...this.#sessions], grace, streams)
  }
}

async function end (sessions: ServerHttp2Session[], grace: number, streams: Promise<unknown>): Promise<void> {
  const timer = setTimeout(async () => {
    // The farewell of a stream may take longer.
    await streams
    for (const session of sessions) session.destroy()
  }, grace)
  await Promise.all(sessions.map(async session => await new Promise<void>(resolve => {
    session.once('close', resolve)
    session.close()
  })))
  clearTimeout(timer)
}
