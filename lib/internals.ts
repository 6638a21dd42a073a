/**
 * What Fastify 5 keeps on its instances under symbols of its own, and has no public name for.
 */
import type { FastifyInstance } from 'fastify'

/** What an instance, or the one that it inherits from, has under the symbol of that description; undefined when none has it. */
export function internalOf (app: FastifyInstance, description: string): unknown {
  for (let scope: object | null = app; scope !== null; scope = Object.getPrototypeOf(scope) as object | null) {
    const key = Object.getOwnPropertySymbols(scope).find(symbol => symbol.description === description)
    if (key !== undefined) return (app as unknown as Record<symbol, unknown>)[key]
  }
  return undefined
}
