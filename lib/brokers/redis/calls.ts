/**
 * Calls of scripts, each with a time limit. What a client is given while the server is away it may keep, and deliver long
 * after everybody has given up: so nothing is, until the server is back.
 */
import { FST_STREAM_BROKER_UNAVAILABLE, withCause } from '../../errors.ts'
import { isReady, send, watch, type RedisClient } from './client.ts'
import type { Script } from './scripts.ts'

export class Calls {
  readonly #client: RedisClient
  readonly #timeout: number
  readonly #unwatch: () => void
  /** Something was not answered in time, and nothing has been answered since. */
  #isSilent = false
  /** Who waits for the server to be back, or for his own time to be over. */
  readonly #waiting = new Set<() => void>()

  constructor (client: RedisClient, timeout: number) {
    this.#client = client
    this.#timeout = timeout
    this.#unwatch = watch(client, () => { this.#answered() })
  }

  /** Leaves the client alone. */
  close (): void {
    this.#unwatch()
  }

  /** Resolves with the reply; rejects with FST_STREAM_BROKER_UNAVAILABLE within the time limit. */
  async run (script: Script, keys: string[], args: string[]): Promise<unknown> {
    return await this.#within(async checkTime => {
      const rest = [String(keys.length), ...keys, ...args]
      try {
        return await this.#send(['EVALSHA', script.sha, ...rest])
      } catch (error) {
        if (!String((error as Error).message).startsWith('NOSCRIPT')) throw error
        checkTime()
        return await this.#send(['EVAL', script.text, ...rest])
      }
    })
  }

  /** Announces something that is in no log. */
  async announce (topic: string, text: string): Promise<void> {
    await this.#within(async () => await this.#send(['PUBLISH', topic, text]))
  }

  async #send (command: string[]): Promise<unknown> {
    return await send(this.#client, command).finally(() => { this.#answered() })
  }

  #answered (): void {
    this.#isSilent = false
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const wake of waiting) wake()
  }

  async #within (ask: (checkTime: () => void) => Promise<unknown>): Promise<unknown> {
    let isSent = false
    let isLate = false
    let wake: (() => void) | undefined
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<never>((resolve, reject) => {
      timer = setTimeout(() => {
        isLate = true
        // It is answered one day, or the connection has to be made anew.
        if (isSent) this.#isSilent = true
        if (wake !== undefined) this.#waiting.delete(wake)
        reject(new Error(`no answer within ${this.#timeout} ms`))
      }, this.#timeout)
    })
    const checkTime = () => { if (isLate) throw new Error('nobody waits for it any more') }
    const asked = async () => {
      while (this.#isSilent || !isReady(this.#client)) {
        await new Promise<void>(resolve => { this.#waiting.add(wake = resolve) })
        checkTime()
      }
      isSent = true
      return await ask(checkTime)
    }
    return await Promise.race([tooLate, asked()])
      .finally(() => { clearTimeout(timer) })
      .catch((error: Error) => { throw withCause(new FST_STREAM_BROKER_UNAVAILABLE(error.message), error) })
  }
}

/** True when the server has refused a call, and would again; false when it could not be reached, or is not ready. */
export function isRefusal (error: unknown): boolean {
  const message = String((error as { cause?: Error }).cause?.message)
  return /^[A-Z]{2,} /.test(message) && !/^(LOADING|BUSY|TRYAGAIN|MASTERDOWN|CLUSTERDOWN) /.test(message)
}
