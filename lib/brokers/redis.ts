/**
 * Channels over many processes, carried and kept by Redis or Valkey, through a client that the user brings.
 */
import type { Broker } from './broker.ts'
import { RedisBroker } from './redis/redis-broker.ts'
import type { RedisBrokerOptions } from './redis/options.ts'

export type { RedisBrokerOptions } from './redis/options.ts'
export type { IoredisClient, NodeRedisClient, RedisClient } from './redis/client.ts'

/**
 * Makes a broker for any number of processes. The client stays the user's: connect it before, and close it after the broker.
 * Throws FST_STREAM_INVALID_OPTION.
 */
export function redisBroker (options: RedisBrokerOptions): Broker {
  return new RedisBroker(options)
}
