/**
 * Prime numbers as plain text, one a round of the callback.
 */
import { setTimeout } from 'node:timers/promises'
import { runAlone } from './gallery/app.js'

export default async function primes (app, { pace = 2, limit = 100_000 }) {
  // #region
  app.get('/primes/text', (request, reply) => {
    let n = 1
    return reply.streamWriter(async writer => {
      n = nextPrime(n)
      if (n > limit) return false
      writer.write(`${n}\n`)
      await setTimeout(pace, undefined, { signal: writer.signal })
    })
  })

  function nextPrime (n) {
    do n++; while (!isPrime(n))
    return n
  }

  function isPrime (n) {
    for (let divisor = 2; divisor * divisor <= n; divisor++) {
      if (n % divisor === 0) return false
    }
    return true
  }
  // #endregion
}

await runAlone(import.meta.url, primes)
