/**
 * Options of `redisBroker()`.
 */
import { checked, isNumber, isPositiveInteger, longestTimer, type Rule } from '../../options.ts'
import { checkClient, type RedisClient } from './client.ts'

export interface RedisBrokerOptions {
  /** A client of ioredis, iovalkey or redis (node-redis), for a single server. It is never closed by the broker. */
  client: RedisClient
  /** A client for the subscriptions of this broker alone, connected by you. Default: the broker opens a connection with `client.duplicate()`, and closes it. */
  subscriber?: RedisClient
  /** What all keys begin with, of up to 64 letters, digits and `-_.:`; applications that share a server need different ones. Default `fastify-streaming`. */
  prefix?: string
  /**
   * Milliseconds for which a channel knows, after its last event has expired, that who has seen that one has missed
   * nothing; from 120 000. Default 3 600 000.
   */
  retention?: number
  /** Milliseconds within which `publish()` settles, and everything else that Redis is asked for. Default 5000. */
  publishTimeout?: number
  /** Events that are read at a time at most, from 1 to 1000; a page also ends after 1 MiB. Default 256. */
  pageSize?: number
}

export type ResolvedRedisOptions = Required<Omit<RedisBrokerOptions, 'subscriber'>> & Pick<RedisBrokerOptions, 'subscriber'>

const rules: Record<string, Rule> = {
  client: ['a client', () => true],
  subscriber: ['a client', () => true],
  prefix: ['1 to 64 letters, digits and -_.:', value => typeof value === 'string' && /^[\w.:-]{1,64}$/.test(value)],
  // A channel that is followed is asked for its head every 45 seconds at least, which keeps it known.
  retention: [`milliseconds from 120000 to ${longestTimer}`, value => isNumber(value, 120_000, longestTimer)],
  publishTimeout: [`milliseconds from 1 to ${longestTimer}`, value => isNumber(value, 1, longestTimer)],
  pageSize: ['1 to 1000 events', value => isPositiveInteger(value) && (value as number) <= 1000]
}

/** Throws FST_STREAM_INVALID_OPTION. */
export function resolveRedisOptions (options: unknown): ResolvedRedisOptions {
  const {
    client, subscriber, prefix = 'fastify-streaming', retention = 3_600_000, publishTimeout = 5000, pageSize = 256
  } = checked(options, rules) as Partial<RedisBrokerOptions>
  checkClient('client', client)
  if (subscriber !== undefined) checkClient('subscriber', subscriber)
  return { client, subscriber, prefix, retention: Math.ceil(retention), publishTimeout, pageSize }
}
