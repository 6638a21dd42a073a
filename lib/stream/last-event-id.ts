/**
 * Where a client that comes back stopped.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#the-last-event-id-header
 */
import type { FastifyRequest } from 'fastify'

const longest = 1024
// eslint-disable-next-line no-control-regex
const controlCharacter = /[\u0000-\u001f\u007f-\u009f]/

/**
 * The `Last-Event-ID` header, which clients send as UTF-8 and Node reads as latin1; else the first `lastEventId` of the
 * query string. One of over 1,024 bytes or with control characters counts as none; '' when there is none.
 */
export function readLastEventId (request: FastifyRequest): string {
  const header = request.headers['last-event-id']
  const id = typeof header === 'string' ? usable(Buffer.from(header, 'latin1').toString()) : ''
  return id !== '' ? id : usable(fromQuery(request.raw.url as string))
}

/** True when the client brings one, usable or not. */
export function bringsLastEventId (request: FastifyRequest): boolean {
  const header = request.headers['last-event-id']
  return (typeof header === 'string' && header !== '') || fromQuery(request.raw.url as string) !== ''
}

function usable (id: string): string {
  return Buffer.byteLength(id) > longest || controlCharacter.test(id) ? '' : id
}

function fromQuery (url: string): string {
  const start = url.indexOf('?')
  return start === -1 ? '' : new URLSearchParams(url.slice(start + 1)).get('lastEventId') ?? ''
}
