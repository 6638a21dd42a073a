/**
 * Closes the HTTP/2 sessions that have carried a stream: `server.close()` waits for their clients otherwise.
 */
import type { ServerHttp2Session } from 'node:http2'
import type { RawResponse } from './connection.ts'

export class SessionCloser {
  readonly #sessions = new Set<ServerHttp2Session>()

  add (response: RawResponse): void {
    if (!('stream' in response)) return
    const session = response.stream.session as ServerHttp2Session | undefined
    if (session === undefined || this.#sessions.has(session)) return
    this.#sessions.add(session)
    session.once('close', () => this.#sessions.delete(session))
  }

  /** Sends GOAWAY on each session; those that are not over after so many milliseconds are destroyed. Resolves when none is left. */
  async close (grace: number): Promise<void> {
    const sessions = [...this.#sessions]
    const timer = setTimeout(() => { for (const session of sessions) session.destroy() }, grace)
    await Promise.all(sessions.map(async session => await new Promise<void>(resolve => {
      if (session.destroyed) return resolve()
      session.once('close', resolve)
      session.close()
    })))
    clearTimeout(timer)
  }
}
