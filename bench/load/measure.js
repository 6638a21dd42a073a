/**
 * Runs a workload with every library that can do it: in each round all do it once, in turn.
 */
import { setTimeout } from 'node:timers/promises'
import { Client, PlainServer, Server } from './processes.js'
import { nameOf } from './workloads.js'

const limit = 300_000

/**
 * Resolves with the rows of a workload. A row has, by library, the median of its figures, its lowest and highest, and
 * the ratio of its median to that of raw. A library that fails drops out, with a line that says so.
 */
export async function measure (workload, { libraries, programs, isQuick }) {
  const { without = [], rounds = 3, quickRounds = 2, isFresh = false, prepare } = workload
  const outcomes = new Map(libraries.filter(library => !without.includes(library)).map(library => [library, []]))
  const pairs = new Map()
  const attempt = async (library, work) => {
    try {
      return await limited(work())
    } catch (error) {
      console.log(`${workload.name}: ${library} drops out: ${error.message}`)
      outcomes.delete(library)
    }
  }
  const start = async library => {
    const server = library === 'C' ? await PlainServer.start(programs.server) : await Server.start(library, workload.flags)
    const client = new Client(programs[workload.client ?? 'client'])
    pairs.set(library, { server, client })
    await prepare?.({ server, client, isQuick })
    server.pin()
    client.pin()
  }
  const stop = async library => {
    const { server, client } = pairs.get(library) ?? {}
    await Promise.all([server?.stop(), client?.stop()])
  }

  if (!isFresh) await Promise.all([...outcomes.keys()].map(async library => await attempt(library, async () => await start(library))))
  for (let round = isFresh || prepare ? 1 : 0; round <= (isQuick ? quickRounds : rounds); round++) {
    for (const library of [...outcomes.keys()]) {
      await attempt(library, async () => {
        if (isFresh) await start(library)
        const outcome = await workload.work({ ...pairs.get(library), isQuick })
        if (round > 0) outcomes.get(library).push(outcome)
      })
      if (isFresh) await stop(library)
    }
  }
  await Promise.all([...pairs.keys()].map(stop))
  if (!outcomes.has('raw')) throw new Error(`${workload.name}: there is nothing to compare with`)
  const { name, unit, reach, isLess = false, also = {}, quickNote } = workload
  return [
    row({ name, unit, reach, isLess, ...isQuick && quickNote && { note: quickNote } }, 'figure', outcomes),
    ...Object.entries(also).map(([key, own]) => row({ name: nameOf(workload, key), ...own, isLess }, key, outcomes))
  ]
}

/** Prints a row with all that was measured. */
export function print ({ name, unit, reach, note, ratios, medians, spread, clientShare }) {
  console.log(`\n${name}, ${unit}${reach === '' ? '' : ` (reach: ${reach})`}${note === undefined ? '' : `, ${note}`}`)
  for (const [library, ratio] of Object.entries(ratios)) {
    const share = clientShare?.[library] === undefined ? '' : `  client ${Math.round(clientShare[library] * 100)} %`
    console.log(`  ${library.padEnd(24)} ${ratio.toFixed(2)}  ${short(medians[library])} (${spread[library].map(short).join(' to ')})${share}`)
  }
}

export function median (values) {
  const sorted = [...values].sort((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2
}

export function short (value) {
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(3)
}

function row (head, key, outcomes) {
  const made = { ...head, ratios: {}, medians: {}, spread: {} }
  const raw = median(outcomes.get('raw').map(outcome => outcome[key]))
  for (const [library, own] of outcomes) {
    const figures = own.map(outcome => outcome[key])
    made.medians[library] = rounded(median(figures))
    made.ratios[library] = rounded(median(figures) / raw)
    made.spread[library] = [rounded(Math.min(...figures)), rounded(Math.max(...figures))]
    if (key === 'figure' && own[0].clientShare !== undefined) {
      (made.clientShare ??= {})[library] = rounded(median(own.map(({ clientShare }) => clientShare)))
    }
  }
  return made
}

export function rounded (value) {
  return Number(value.toPrecision(4))
}

/** Rejects when the work takes longer than it ever should. */
export async function limited (work) {
  const timer = new AbortController()
  const late = setTimeout(limit, undefined, { signal: timer.signal }).then(() => { throw new Error(`not done after ${limit / 1000} s`) })
  try {
    return await Promise.race([work, late])
  } finally {
    timer.abort()
    late.catch(() => {})
  }
}
