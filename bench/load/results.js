/**
 * bench/results.json: what was measured, and on which machine.
 */
import { readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { isPinned } from './processes.js'

const file = new URL('../results.json', import.meta.url)

/** Resolves with what was saved, or with nothing in an object. */
export async function readResults () {
  try {
    return JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
    return {}
  }
}

/** Replaces some keys, and keeps the others. */
export async function saveResults (changed) {
  await writeFile(file, asText({ ...await readResults(), ...changed }))
}

/** JSON in which what has no more objects in it stands on one line. */
export function asText (results) {
  return `${JSON.stringify(results, undefined, 1).replaceAll(/[[{][^[\]{}]*[\]}]/g, inner => inner.replaceAll(/\n\s*/g, ' '))}\n`
}

export function machine () {
  return {
    cpu: os.cpus()[0]?.model,
    cores: os.availableParallelism(),
    pinned: isPinned,
    node: process.version,
    system: `${os.type()} ${os.release()}`,
    date: new Date().toISOString().slice(0, 10)
  }
}
