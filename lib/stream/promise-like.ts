/**
 * What can be awaited, and what nobody will await.
 */

export function isPromiseLike (value: unknown): value is PromiseLike<unknown> {
  const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function'
  return isObject && typeof (value as { then?: unknown }).then === 'function'
}

/** Lets a promise that nobody awaits reject without killing the process. */
export function ignoreRejection (value: unknown): void {
  if (isPromiseLike(value)) value.then(noop, noop)
}

function noop (): void {}
