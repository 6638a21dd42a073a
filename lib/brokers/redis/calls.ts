/**
 * Calls of scripts, each with a time limit: while the server does not answer, hardly anything is sent to it.
 */
import { FST_STREAM_BROKER_UNAVAILABLE, withCause } from '../../errors.ts'
import { send, type RedisClient } from './client.ts'
import type { Script } from './scripts.ts'

export class Calls {
  readonly timeout: number
  readonly #client: RedisClient
  /** When something was sent last that was not answered in time; undefined while the server answers. */
  #silentSince: number | undefined
  #wake: Array<() => void> = []

  constructor (client: RedisClient, timeout: number) {
    this.#client = client
    this.timeout = timeout
  }

  /** Resolves with the reply; rejects with FST_STREAM_BROKER_UNAVAILABLE within the time limit. */
  async run (script: Script, keys: string[], args: string[]): Promise<unknown> {
    return await this.#within(async isLate => {
      await this.#answering(isLate)
      const rest = [String(keys.length), ...keys, ...args]
      try {
        return await this.#send(['EVALSHA', script.sha, ...rest])
      } catch (error) {
        if (!String((error as Error).message).startsWith('NOSCRIPT')) throw error
        return await this.#send(['EVAL', script.text, ...rest])
      }
    })
  }

  /** Announces something that is in no log. */
  async announce (topic: string, text: string): Promise<void> {
    await this.#within(async isLate => {
      await this.#answering(isLate)
      await this.#send(['PUBLISH', topic, text])
    })
  }

  async #send (command: string[]): Promise<unknown> {
    const answered = () => {
      this.#silentSince = undefined
      for (const wake of this.#wake.splice(0)) wake()
    }
    try {
      const reply = await send(this.#client, command)
      answered()
      return reply
    } catch (error) {
      answered()
      throw error
    }
  }

  /** Whatever is sent now waits in the client, until the connection is back or lost: one call each time limit is enough to learn that. */
  async #answering (isLate: () => boolean): Promise<void> {
    while (this.#silentSince !== undefined && !isLate()) {
      const rest = this.#silentSince + this.timeout - performance.now()
      if (rest <= 0) {
        this.#silentSince = performance.now()
        return
      }
      await new Promise<void>(resolve => { this.#wake.push(resolve) })
    }
    if (isLate()) throw new Error('too late')
  }

  async #within (ask: (isLate: () => boolean) => Promise<unknown>): Promise<unknown> {
    let isLate = false
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<never>((resolve, reject) => {
      timer = setTimeout(() => {
        isLate = true
        this.#silentSince ??= performance.now()
        for (const wake of this.#wake.splice(0)) wake()
        reject(new Error(`no answer within ${this.timeout} ms`))
      }, this.timeout)
    })
    return await Promise.race([tooLate, ask(() => isLate)])
      .finally(() => { clearTimeout(timer) })
      .catch((error: Error) => { throw withCause(new FST_STREAM_BROKER_UNAVAILABLE(error.message), error) })
  }
}

/** True when the server has refused a call, and would again; false when it could not be reached, or is not ready. */
export function isRefusal (error: unknown): boolean {
  const message = String((error as { cause?: Error }).cause?.message)
  return /^[A-Z]{2,} /.test(message) && !/^(LOADING|BUSY|TRYAGAIN|MASTERDOWN|CLUSTERDOWN) /.test(message)
}
