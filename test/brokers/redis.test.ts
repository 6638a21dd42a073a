import '../fixtures/guard.ts'
import t from 'tap'
import { redisBroker } from '../../lib/brokers/redis.ts'
import { brokerContract } from '../fixtures/broker-contract.ts'
import { clients } from '../fixtures/redis-clients.ts'
import { RedisServer } from '../fixtures/redis-server.ts'

const server = new RedisServer()
t.before(async () => { await server.start() })
t.teardown(() => server.remove())

for (const [name, connect] of Object.entries(clients)) {
  brokerContract(t, `Redis through ${name}`, async () => {
    const [one, two] = [await connect(server.socket), await connect(server.socket)]
    await one.command('FLUSHALL')
    const broker = redisBroker({ client: one.client })
    const another = redisBroker({ client: two.client })
    return {
      broker,
      another,
      wipe: async () => { await one.command('FLUSHALL') },
      close: async () => {
        await Promise.all([broker.close(), another.close()])
        await Promise.all([one.close(), two.close()])
      }
    }
  })
}
