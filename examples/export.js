/**
 * A large export: 100,000 days from 1 January 1800 on, with moon and daylight, as NDJSON.
 */
import { setTimeout } from 'node:timers/promises'
import { runAlone } from './gallery/app.js'

const perPage = 250

export default async function exportRows (app, { rows = 100_000, pace = 250 }) {
  // #region
  app.get('/export/days.ndjson', (request, reply) => {
    reply.header('x-rows', rows)
    return reply.streamWriter(writer => {
      const start = writer.round * perPage
      const end = Math.min(start + perPage, rows)
      for (let n = start; n < end; n++) writer.json(day(n))
      return end < rows
    })
  })

  app.get('/export/memory', (request, reply) =>
    reply.sse((stream, signal) => memory(signal)))

  async function * memory (signal) {
    while (await setTimeout(pace, true, { signal })) {
      yield { data: process.memoryUsage.rss() }
    }
  }
  // #endregion
}

const first = Date.UTC(1800, 0, 1)
const newMoon = Date.UTC(2000, 0, 6, 18, 14)
const month = 29.530588853
const phases = ['new', 'waxing crescent', 'first quarter', 'waxing gibbous', 'full', 'waning gibbous', 'last quarter', 'waning crescent']
const latitudes = { Reykjavik: 64.1, Berlin: 52.5, Cairo: 30, Singapore: 1.4, Sydney: -33.9, Ushuaia: -54.8 }
const weekday = new Intl.DateTimeFormat('en', { weekday: 'long', timeZone: 'UTC' })

/** The day `n` days after the first: the mean age of the moon at noon in days, and the hours of daylight (good to ten minutes). */
function day (n) {
  const noon = first + (n + 0.5) * 86_400_000
  const age = ((noon - newMoon) / 86_400_000 % month + month) % month
  const declination = -0.4091 * Math.cos(2 * Math.PI * ((noon - Date.UTC(2000, 11, 21)) / 86_400_000 / 365.2422))
  const daylight = latitude => 24 / Math.PI * Math.acos(-Math.tan(latitude * Math.PI / 180) * Math.tan(declination))
  return {
    date: new Date(noon).toISOString().slice(0, 10),
    weekday: weekday.format(noon),
    moon: { age: round(age), phase: phases[Math.round(age / month * 8) % 8] },
    daylight: Object.fromEntries(Object.entries(latitudes).map(([city, latitude]) => [city, round(daylight(latitude))]))
  }
}

function round (number) {
  return Number(number.toFixed(1))
}

await runAlone(import.meta.url, exportRows)
