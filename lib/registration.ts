/**
 * What one `app.register(streaming)` keeps of its streams, and what it reports of each that ends.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { publishClose, publishOpen } from './diagnostics.ts'
import type { ResolvedOptions } from './options.ts'
import { Heartbeats } from './stream/heartbeat.ts'
import type { Host, Lifecycle, StreamOutcome } from './stream/lifecycle.ts'

/** Outcomes that somebody should look at. */
const troubles = new Set<StreamOutcome['reason']>(['stalled', 'overflow', 'failed'])

export class Registration implements Host {
  readonly heartbeats = new Heartbeats()
  readonly options: ResolvedOptions
  readonly #isLoggingDisabled: (request: FastifyRequest) => boolean

  constructor (app: FastifyInstance, options: ResolvedOptions) {
    this.options = options
    this.#isLoggingDisabled = requestLogging(app)
  }

  opened ({ kind, reply }: Lifecycle): void {
    publishOpen(kind, reply)
  }

  closed (stream: Lifecycle, outcome: StreamOutcome, isErrorReply: boolean): void {
    const { kind, reply } = stream
    for (const onClose of stream.closeListeners) {
      try {
        onClose(outcome, reply.request)
      } catch (error) {
        reply.log.error({ err: error }, 'onClose failed')
      }
    }
    if (isErrorReply) return
    this.#log(reply, kind, outcome)
    publishClose(kind, reply, outcome)
  }

  #log (reply: FastifyReply, kind: string, { error, ...outcome }: StreamOutcome): void {
    const isTrouble = troubles.has(outcome.reason)
    if (!isTrouble && this.#isLoggingDisabled(reply.request)) return
    const line = { stream: { kind, ...outcome }, ...error !== undefined && { err: error } }
    if (isTrouble) reply.log.warn(line, 'stream closed')
    else reply.log.info(line, 'stream closed')
  }
}

// Fastify's log controller is the one that knows, and has no public name; before it there was the option alone.
function requestLogging (app: FastifyInstance): (request: FastifyRequest) => boolean {
  for (let scope: object | null = app; scope !== null; scope = Object.getPrototypeOf(scope) as object | null) {
    const key = Object.getOwnPropertySymbols(scope).find(symbol => symbol.description === 'fastify.logController')
    if (key === undefined) continue
    const controller = (scope as Record<symbol, { isLogDisabled (request: FastifyRequest): boolean }>)[key]
    return request => controller.isLogDisabled(request)
  }
  const { disableRequestLogging } = app.initialConfig
  return request => typeof disableRequestLogging === 'function' ? disableRequestLogging(request) : disableRequestLogging === true
}
