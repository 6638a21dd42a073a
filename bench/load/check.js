/**
 * Compares what this package reaches with what it once did.
 */
import { nameOf } from './workloads.js'

const ours = 'fastify-streaming'
const tolerance = 0.15

/** True when a row is more than 15 % worse than the saved one of its name. */
export function isWorse (row, saved) {
  const before = saved.find(({ name }) => name === row.name)?.ratios[ours]
  const change = row.ratios[ours] / before
  return row.isLess ? change > 1 + tolerance : change < 1 - tolerance
}

/** Each row as it was in whichever of two runs was better for this package. */
export function better (rows, others) {
  return rows.map(row => {
    const other = others.find(({ name }) => name === row.name)
    const gain = (other.ratios[ours] - row.ratios[ours]) * (row.isLess ? -1 : 1)
    return gain > 0 ? other : row
  })
}

/**
 * Prints a line for each row, and returns how many fail: those that are worse, that are not saved, or that this package
 * has no figure of. `workloads` are those that were to run; `isAll` says that these are all there are.
 */
export function check (rows, { saved, workloads, isAll }) {
  const names = workloads.flatMap(workload => [workload.name, ...Object.keys(workload.also ?? {}).map(key => nameOf(workload, key))])
  const gone = isAll ? saved.map(({ name }) => name).filter(name => !names.includes(name)) : []
  let failed = 0
  for (const name of [...names, ...gone]) {
    const row = rows.find(row => row.name === name)
    const before = saved.find(row => row.name === name)?.ratios[ours]
    const verdict = row?.ratios[ours] === undefined ? 'DID NOT RUN' : before === undefined ? 'NOT SAVED' : isWorse(row, saved) ? 'WORSE' : 'ok'
    if (verdict !== 'ok') failed++
    console.log(`${verdict.padEnd(12)} ${name}: ${ratio(before)} → ${ratio(row?.ratios[ours])}${row?.isLess ? ' (less is better)' : ''}${spreadOf(row)}`)
  }
  return failed
}

function ratio (value) {
  return value?.toFixed(2) ?? '–'
}

/** The rounds of this package beside the median of raw. */
function spreadOf (row) {
  if (row?.spread[ours] === undefined) return ''
  return `, rounds ${row.spread[ours].map(figure => ratio(figure / row.medians.raw)).join(' to ')}`
}
