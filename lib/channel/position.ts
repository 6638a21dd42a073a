/**
 * Where a client stands, as it goes over the wire: `<id>.<tag>` for each channel of its stream, joined by commas.
 */
import { createHash } from 'node:crypto'
import type { EventId, From } from '../brokers/broker.ts'

const form = /^([0-9A-Za-z-]{1,56})\.([0-9A-Za-z_-]{6})$/

// What brokers are asked for by these names is no position that a client may bring.
const keywords = new Set<string>(['live', 'earliest'] satisfies From[])

/** A short name of a channel: two channels may have given the same id. */
export function tagOf (name: string): string {
  return createHash('sha256').update(name).digest('base64url').slice(0, 6)
}

export function formatPosition (id: EventId, tag: string): string {
  return `${id}.${tag}`
}

export function joinPositions (positions: string[]): string {
  return positions.join(',')
}

/** The ids of what a client brings, by the tags of their channels; none when a part is ill-formed, or there twice. */
export function parsePositions (text: string): Map<string, EventId> {
  const ids = new Map<string, EventId>()
  for (const part of text.split(',')) {
    const [, id = '', tag = ''] = form.exec(part) ?? []
    if (id === '' || keywords.has(id) || ids.has(tag)) return new Map()
    ids.set(tag, id)
  }
  return ids
}
