/**
 * What only one process may do at a time.
 */
import { randomUUID } from 'node:crypto'

const take = `
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1`

/**
 * Gives a function that is true in one of the processes which go on calling it. When that one stops, another one has
 * it within `time` milliseconds.
 */
export function lease (client, key, time = 1000) {
  const name = randomUUID()
  let asked = -Infinity
  let until = -Infinity

  async function ask (now) {
    asked = now
    // From before the question, so that it is over here before it is over in Redis.
    if (await client.eval(take, 1, key, name, time) === 1) until = now + time
  }

  return () => {
    const now = performance.now()
    if (now > asked + time / 4) ask(now).catch(() => {}) // without an answer, it ends
    return now < until
  }
}
