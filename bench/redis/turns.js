/**
 * How long the event loop does not turn. A timer of 1 ms fires once a turn at most: what the loop was active between two
 * of its calls is one turn, or several that take a millisecond together. Time that it has slept for is not counted.
 */
import { performance } from 'node:perf_hooks'

/** Milliseconds: whoever waits for a turn shorter than this does not notice. The slices of a fan-out are 10 ms. */
const longTurn = 20

/** Returns what ends it: with the milliseconds of all turns, of those that were long, all of each, and of the longest. */
export function measureTurns () {
  const turns = []
  let before = performance.eventLoopUtilization()
  const take = () => {
    const now = performance.eventLoopUtilization()
    turns.push(now.active - before.active)
    before = now
  }
  const timer = setInterval(take, 1)
  return () => {
    take()
    clearInterval(timer)
    return { busy: sum(turns), blocked: sum(turns.filter(turn => turn > longTurn)), longest: Math.max(...turns) }
  }
}

function sum (values) {
  return values.reduce((total, value) => total + value, 0)
}
