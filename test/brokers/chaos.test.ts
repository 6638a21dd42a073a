import '../fixtures/guard.ts'
import t from 'tap'
import { reportOf, rows, runChaos } from '../fixtures/chaos.ts'
import { clients, newestClients } from '../fixtures/redis-clients.ts'
import { hasRedis } from '../fixtures/redis-server.ts'

const seed = Number(process.env.CHAOS_SEED ?? Math.floor(Math.random() * 2 ** 32))
const only = process.env.CHAOS_ROW ?? ''
// `npm run chaos`: every row with every client, so many times. Else every row once.
const runs = Number(process.env.CHAOS_RUNS ?? 0)
const names = Object.keys(clients)
const size = runs > 0 ? { clients: 8, channels: 3 } : { clients: 4, channels: 1 }

// What is broken takes longer than it costs.
t.jobs = 4

for (const [i, row] of rows.entries()) {
  if (!row.name.includes(only)) continue
  const chosen = runs > 0 ? Array.from({ length: runs }, () => names).flat() : [newestClients[i % newestClients.length] as string]
  for (const [j, client] of chosen.entries()) {
    t.test(`${row.name}: what was promised holds (${client}, CHAOS_SEED=${seed})`, { skip: !hasRedis && 'there is no redis-server' }, async t => {
      let report = `not run: ${row.name} (${client}, seed ${seed + j})`
      try {
        const result = await runChaos(row, client, seed + j, size)
        report = reportOf(result)
        t.strictSame(result.broken, [])
        t.ok(result.deliveries > 0)
        // Beside other tests it is told only: what else runs on the machine takes its time, too.
        if (runs > 0) t.ok((result.backAfter ?? 0) <= 2000, `back after ${String(result.backAfter)} ms`)
      } finally {
        console.error(report)
      }
    })
  }
}
