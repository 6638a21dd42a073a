/**
 * One listener a signal or socket, however many streams share it: Node warns of a leak from the eleventh on.
 */
import type { Socket } from 'node:net'

interface Shared {
  listeners: Set<() => void>
  tell: () => void
}

const shared = new WeakMap<object, Shared>()

/** Calls `listener` once when the signal aborts, now if it has. Returns what forgets the listener. */
export function onAbort (signal: AbortSignal, listener: () => void): () => void {
  if (!signal.aborted) return share(signal, listener, tell => signal.addEventListener('abort', tell), tell => signal.removeEventListener('abort', tell))
  listener()
  return () => {}
}

/** Calls `listener` when the socket closes. Returns what forgets the listener. */
export function onSocketClose (socket: Socket, listener: () => void): () => void {
  return share(socket, listener, tell => socket.on('close', tell), tell => socket.off('close', tell))
}

function share (target: object, listener: () => void, listen: (tell: () => void) => void, forget: (tell: () => void) => void): () => void {
  const entry: Shared = shared.get(target) ?? { listeners: new Set(), tell () { for (const tellOne of entry.listeners) tellOne() } }
  if (entry.listeners.size === 0) {
    shared.set(target, entry)
    listen(entry.tell)
  }
  entry.listeners.add(listener)
  return () => {
    if (!entry.listeners.delete(listener) || entry.listeners.size > 0) return
    shared.delete(target)
    forget(entry.tell)
  }
}
