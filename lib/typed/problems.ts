/**
 * What validators complain of, in words that tell nothing of the data: error messages reach clients.
 */
import { shown } from '../errors.ts'
import { keysOf } from './json-schema.ts'

/** Of Ajv, and of what speaks as it does, or of Zod, Joi and others. */
export interface Problem {
  instancePath?: unknown
  path?: unknown
  /** The rule: of Ajv, of Zod, of Joi. */
  keyword?: unknown
  code?: unknown
  type?: unknown
  /** A key of the data that is the problem itself, of Ajv. */
  propertyName?: unknown
  /** The type that it should be, of Zod. */
  expected?: unknown
  params?: { expected?: unknown }
  message?: string
}

/** Those of JSON Schema, whose messages Ajv makes of the schema alone; the message of another one may have the data. */
const keywords = new Set([
  'type', 'enum', 'const', 'format', 'pattern', 'minLength', 'maxLength', 'minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf',
  'items', 'additionalItems', 'prefixItems', 'unevaluatedItems', 'minItems', 'maxItems', 'uniqueItems', 'contains', 'minContains', 'maxContains',
  'required', 'minProperties', 'maxProperties', 'additionalProperties', 'unevaluatedProperties', 'propertyNames', 'dependencies', 'dependentRequired',
  'anyOf', 'oneOf', 'not', 'if', 'false schema', 'nullable', 'discriminator'
])

/** The problem to tell first of what a validator or a serializer complains of; undefined when it names none. */
export function mainProblem (cause: unknown): Problem | undefined {
  const problems = problemsOf(cause)
  const last = problems.at(-1)
  // Before it are those of each branch, as if that were the one.
  return last?.keyword === 'anyOf' || last?.keyword === 'oneOf' ? last : problems[0]
}

/** An error that says all that a validator or a serializer does, also of the data. */
export function causeOf (cause: unknown): Error {
  if (cause instanceof Error) return cause
  const texts = problemsOf(cause).map(({ params, message = 'does not fit', ...problem }) =>
    `data${pathOf(problem).map(key => `/${key}`).join('')} ${message}${params === undefined ? '' : ` ${shown(params)}`}`)
  if (texts.length === 0) texts.push(typeof cause === 'string' ? cause : 'data does not fit')
  return Object.assign(new Error(texts.join(', ')), { errors: cause })
}

/** The rule that is broken, in words of the schema. */
export function ruleOf ({ message, expected, params, propertyName, ...problem }: Problem): string {
  const rule = [problem.keyword, problem.code, problem.type].find(name => typeof name === 'string') as string | undefined
  if (rule === undefined) return 'does not fit'
  if (rule === problem.keyword && keywords.has(rule) && message !== undefined) return propertyName === undefined ? message : `has a key that ${message}`
  const type = expected ?? params?.expected
  return typeof type === 'string' ? `must be ${type}` : `fails ${rule}`
}

/**
 * Where in the data a problem is, and what is there. The path is a JSON pointer in which `*` is a key that is not among
 * the names: it may be anything.
 */
export function placeOf (problem: Problem, data: unknown, names: Set<string>): { path: string, value: unknown } {
  let value = data
  let path = ''
  for (const key of pathOf(problem)) {
    path += `/${Array.isArray(value) || names.has(key) ? key : '*'}`
    value = Object(value)[key]
  }
  return { path, value }
}

/** The names of properties anywhere in schemas; of Zod, too. */
export function propertyNames (schemas: unknown[]): Set<string> {
  const names = new Set<string>()
  const seen = new Set<unknown>()
  const collect = (node: unknown): void => {
    if (typeof node !== 'object' || node === null || seen.has(node)) return
    seen.add(node)
    const { properties, shape } = node as { properties?: unknown, shape?: unknown }
    for (const map of [properties, shape]) {
      if (typeof map === 'object' && map !== null) for (const name of Object.keys(map)) names.add(name)
    }
    for (const part of Object.values(node)) collect(part)
  }
  collect(schemas)
  return names
}

/** The problems in what a validator or a serializer complains of: a list, or an error that has one, itself or as its cause. */
function problemsOf (cause: unknown): Problem[] {
  if (Array.isArray(cause)) return cause as Problem[]
  const { issues, details, cause: inner } = Object(cause) as { issues?: unknown, details?: unknown, cause?: unknown }
  for (const list of [issues, details]) if (Array.isArray(list)) return list as Problem[]
  return inner === undefined ? [] : problemsOf(inner)
}

function pathOf ({ instancePath, path }: Problem): string[] {
  if (typeof instancePath !== 'string') return Array.isArray(path) ? path.map(String) : []
  // What some have for the data itself.
  return instancePath === '/' ? [] : keysOf(instancePath)
}
