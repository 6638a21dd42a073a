/**
 * Prices, 500 a second, for as long as somebody watches. They are made up.
 */
import { runAlone } from './gallery/app.js'

const symbols = 'BASS CARP CHUB CLAM COD CRAB CUSK DACE EEL HAKE KRILL LING ORCA PIKE RAY SHAD SOLE SQUID TENCH TUNA'.split(' ')

/** Of processes that share the channel, the one in which `isMine()` is true makes the prices. */
export default async function ticker (app, { rate = 500, isMine = () => true }) {
  const prices = new Map(symbols.map((symbol, index) => [symbol, 20 + index * 37 % 80]))
  let n = 0

  // #region
  // Two seconds: a reader that is further behind goes on
  // with the newest price of each symbol.
  const ticker = app.streaming.channel('ticker', {
    history: { events: 2 * rate }
  })

  app.get('/ticker/prices', (request, reply) =>
    reply.sse(ticker, { lag: 'latest' }))

  let next = 0
  const timer = setInterval(() => {
    const now = performance.now()
    // Nobody is there, or another process makes them.
    if (ticker.size === 0 || !isMine()) next = now
    for (; next < now; next += 1000 / rate) {
      const data = change(pick(symbols))
      ticker.publish({ data }, { key: data.symbol })
    }
  }, 20)
  app.addHook('preClose', async () => clearInterval(timer))
  // #endregion

  function change (symbol) {
    const price = prices.get(symbol) * (1 + (Math.random() - 0.5) / 500)
    prices.set(symbol, price)
    return { by: process.pid, n: n++, symbol, price: Number(price.toFixed(2)), time: Date.now() }
  }
}

function pick (array) {
  return array[Math.floor(Math.random() * array.length)]
}

await runAlone(import.meta.url, ticker)
