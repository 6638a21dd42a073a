/**
 * What this process is doing, measured once a second for whoever watches.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout } from 'node:timers/promises'
import { runAlone } from './gallery/app.js'

export default async function metrics (app, { pace = 1000 }) {
  // #region
  app.get('/metrics/live', (request, reply) =>
    reply.sse((stream, signal) => measure(signal)))

  async function * measure (signal) {
    const delay = monitorEventLoopDelay({ resolution: 10 })
    delay.enable()
    try {
      let time = performance.now()
      let cpu = process.cpuUsage()
      while (await setTimeout(pace, true, { signal })) {
        const { user, system } = process.cpuUsage(cpu)
        const { rss, heapUsed } = process.memoryUsage()
        yield {
          data: {
            cpu: (user + system) / (performance.now() - time) / 10, // percent
            rss,
            heap: heapUsed,
            delay: { mean: beyond(delay.mean), max: beyond(delay.max) },
            open: app.streaming.open
          }
        }
        time = performance.now()
        cpu = process.cpuUsage()
        delay.reset()
      }
    } finally {
      delay.disable()
    }
  }

  // In milliseconds, without the 10 between two looks.
  function beyond (nanoseconds) {
    return Math.max(0, nanoseconds / 1e6 - 10)
  }
  // #endregion

  // Something to see: the event loop stands still for a moment, for every stream of this process.
  app.post('/metrics/block', async () => {
    const end = performance.now() + 200
    while (performance.now() < end);
    return { blocked: 200 }
  })
}

await runAlone(import.meta.url, metrics)
