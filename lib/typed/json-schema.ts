/**
 * A JSON schema as a part of another one.
 * https://json-schema.org/draft-07/json-schema-core
 */

export type Json = Record<string, unknown>

const keywordsOfNames = new Set(['properties', 'patternProperties', 'definitions', '$defs', 'dependentSchemas'])
const keywordsOfValues = new Set(['default', 'enum', 'const', 'examples', 'example'])

/** The schema with what it defines for itself in its place; what leads back to where it is needed is anything there. */
export function selfContained (schema: Json | boolean): Json {
  if (typeof schema === 'boolean') return schema ? {} : { not: {} }
  const { $id, $schema, $defs, definitions, ...rest } = schema
  return new Definitions(schema).inlined(rest, []) as Json
}

/** What is in a document at a JSON pointer. */
export function lookUp (document: unknown, pointer: string): unknown {
  const keys = pointer.split('/').slice(1).map(key => decodeURIComponent(key).replaceAll('~1', '/').replaceAll('~0', '~'))
  return keys.reduce((node, key) => Object(node)[key], document)
}

class Definitions {
  readonly #root: Json

  constructor (root: Json) {
    this.#root = root
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
    if (pointer === '' || (within.length > 0 && this.#leadsTo(within, pointer, new Set()))) return others
    const definition = this.#at(pointer)
    return { ...typeof definition === 'boolean' ? selfContained(definition) : this.inlined(definition, [...within, pointer]) as Json, ...others }
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
    return base === '' || base === this.#root.$id ? pointer : undefined
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
