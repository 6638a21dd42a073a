/**
 * One listener a signal, however many streams share it: Node warns of a leak from the eleventh on.
 */

const listeners = new WeakMap<AbortSignal, Set<() => void>>()

/** Calls `listener` once when the signal aborts, now if it has. Returns what forgets the listener. */
export function onAbort (signal: AbortSignal, listener: () => void): () => void {
  if (signal.aborted) {
    listener()
    return () => {}
  }
  const all = listeners.get(signal) ?? listen(signal)
  all.add(listener)
  return () => {
    all.delete(listener)
    if (all.size > 0) return
    listeners.delete(signal)
    signal.removeEventListener('abort', abortAll)
  }
}

function listen (signal: AbortSignal): Set<() => void> {
  const all = new Set<() => void>()
  listeners.set(signal, all)
  signal.addEventListener('abort', abortAll)
  return all
}

function abortAll (this: AbortSignal): void {
  for (const listener of [...listeners.get(this) ?? []]) listener()
}
