import '../fixtures/guard.ts'
import t from 'tap'
import { redisBroker } from '../../lib/brokers/redis.ts'
import type { Broker } from '../../lib/index.ts'
import { brokerContract } from '../fixtures/broker-contract.ts'
import { clients, newestClients, type ConnectedClient } from '../fixtures/redis-clients.ts'
import { hasRedis, RedisServer } from '../fixtures/redis-server.ts'

// REDIS_CLIENTS=all: with every version that the README names.
const names = process.env.REDIS_CLIENTS === 'all' ? Object.keys(clients) : newestClients

t.test('the contract of a broker', { skip: !hasRedis && 'there is no redis-server' }, async t => {
  const server = new RedisServer()
  t.teardown(() => server.remove())
  await server.start()
  for (const name of names) {
    brokerContract(t, `Redis through ${name}`, async () => {
      const connect = async () => await (clients[name] as (typeof clients)[string])(server.socket)
      const [one, two] = await Promise.all([connect(), connect()]) as [ConnectedClient, ConnectedClient]
      await one.command('FLUSHALL')
      const [broker, another] = [one, two].map(({ client }) => redisBroker({ client })) as [Broker, Broker]
      return {
        broker,
        another,
        wipe: async () => { await one.command('FLUSHALL') },
        copy: async () => {
          const keys = await one.command('KEYS', '*') as string[]
          for (const key of keys) await one.command('COPY', key, `copy ${key}`, 'REPLACE')
          return async () => {
            const added = (await one.command('KEYS', '*') as string[]).filter(key => !key.startsWith('copy '))
            await one.command('DEL', ...added)
            for (const key of keys) await one.command('COPY', `copy ${key}`, key)
          }
        },
        close: async () => {
          await Promise.all([broker.close(), another.close()])
          await Promise.all([one.close(), two.close()])
        }
      }
    })
  }
})
