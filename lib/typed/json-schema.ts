/**
 * JSON schemas as data: which parts of one are schemas, and how one becomes a part of another.
 * https://json-schema.org/draft-07/json-schema-core
 */
import { isPlainObject } from '../options.ts'

export type Json = Record<string, unknown>

/** Keywords whose value has a schema for each of some names. */
export const keywordsOfNames = new Set(['properties', 'patternProperties', 'definitions', '$defs', 'dependentSchemas'])
/** Keywords whose value is no schema, whatever it looks like. */
export const keywordsOfValues = new Set(['default', 'enum', 'const', 'examples', 'example'])

// What refers to more than that is anything from there on: two references in each definition are 2^n schemas.
const mostPlaces = 500

/** True for what JSON Schema has as a schema, and for what has its form. */
export function isJsonSchema (schema: unknown): schema is boolean | Json {
  return typeof schema === 'boolean' || isPlainObject(schema)
}

/** The schema with what it defines for itself in its place; what leads back to where it is needed is anything there. */
export function selfContained (schema: Json | boolean): Json {
  if (typeof schema === 'boolean') return schema ? {} : { not: {} }
  const { $id, $schema, $defs, definitions, ...rest } = schema
  return new Definitions(schema).inlined(rest, []) as Json
}

/** What is in a document at a JSON pointer. */
export function lookUp (document: unknown, pointer: string): unknown {
  return keysOf(pointer).map(decodeURIComponent).reduce((node, key) => Object(node)[key], document)
}

/** The keys that a JSON pointer is made of. https://www.rfc-editor.org/rfc/rfc6901 */
export function keysOf (pointer: string): string[] {
  return pointer.split('/').slice(1).map(key => key.replaceAll('~1', '/').replaceAll('~0', '~'))
}

class Definitions {
  readonly #root: Json
  /** Where definitions are that have an id or an anchor of their own. */
  readonly #ids = new Map<string, string>()
  #places = 0

  constructor (root: Json) {
    this.#root = root
    for (const keyword of ['definitions', '$defs']) {
      for (const [name, definition] of Object.entries(Object(root[keyword]) as Json)) {
        const { $id, $anchor } = Object(definition) as Json
        for (const id of [$id, typeof $anchor === 'string' ? `#${$anchor}` : undefined]) {
          if (typeof id === 'string') this.#ids.set(id, `/${keyword}/${encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'))}`)
        }
      }
    }
  }

  /** The part of the schema with what it refers to in place; `within` are the definitions that it is in already. */
  inlined (node: unknown, within: string[], isOfNames = false): unknown {
    if (Array.isArray(node)) return node.map(item => this.inlined(item, within))
    if (!isObject(node)) return node
    const copy = Object.fromEntries(Object.entries(node).map(([key, value]) =>
      [key, isValue(key, isOfNames) ? value : this.inlined(value, within, isMap(key, isOfNames))]))
    const pointer = isOfNames ? undefined : this.#pointer(node)
    if (pointer === undefined) return copy
    const { $ref, ...others } = copy
    if (pointer === '' || this.#places++ >= mostPlaces || (within.length > 0 && this.#leadsTo(within, pointer, new Set()))) return others
    const definition = this.#at(pointer)
    if (typeof definition === 'boolean') return { ...selfContained(definition), ...others }
    const { $id, $anchor, ...place } = this.inlined(definition, [...within, pointer]) as Json
    return { ...place, ...others }
  }

  #leadsTo (targets: string[], pointer: string, seen: Set<string>): boolean {
    if (targets.includes(pointer)) return true
    if (seen.has(pointer)) return false
    seen.add(pointer)
    return this.#references(this.#at(pointer)).some(next => this.#leadsTo(targets, next, seen))
  }

  #references (node: unknown, isOfNames = false): string[] {
    if (!isObject(node)) return []
    const inside = Object.entries(node).flatMap(([key, value]) => isValue(key, isOfNames) ? [] : this.#references(value, isMap(key, isOfNames)))
    const pointer = isOfNames ? undefined : this.#pointer(node)
    return pointer === undefined ? inside : [pointer, ...inside]
  }

  #at (pointer: string): unknown {
    return lookUp(this.#root, pointer)
  }

  /** Where in the schema itself a reference leads; undefined for one that leads elsewhere. */
  #pointer ({ $ref }: Json): string | undefined {
    if (typeof $ref !== 'string') return undefined
    const [base, pointer = ''] = $ref.split('#')
    const isHere = base === '' || base === this.#root.$id
    if (isHere && (pointer === '' || pointer.startsWith('/'))) return pointer
    return this.#ids.get(isHere ? `#${pointer}` : $ref.replace(/#$/, ''))
  }
}

function isMap (key: string, isOfNames: boolean): boolean {
  return !isOfNames && keywordsOfNames.has(key)
}

function isValue (key: string, isOfNames: boolean): boolean {
  return !isOfNames && keywordsOfValues.has(key)
}

function isObject (node: unknown): node is Json {
  return typeof node === 'object' && node !== null
}
