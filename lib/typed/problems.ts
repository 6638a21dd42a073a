/**
 * What validators complain of, in words that tell nothing of the data: error messages reach clients.
 */

/** Of Ajv, and of what speaks as it does, or of Zod, Joi and others. */
export interface Problem {
  instancePath?: string
  path?: unknown
  /** The rule: of Ajv, of Zod, of Joi. */
  keyword?: unknown
  code?: unknown
  type?: unknown
  /** The type that it should be, of Zod. */
  expected?: unknown
  params?: { expected?: unknown }
  message?: string
}

/** The problems in what a validator or a serializer complains of: a list, or an error that has one, itself or as its cause. */
export function problemsOf (cause: unknown): Problem[] {
  if (Array.isArray(cause)) return cause as Problem[]
  const { issues, details, cause: inner } = Object(cause) as { issues?: unknown, details?: unknown, cause?: unknown }
  for (const list of [issues, details]) if (Array.isArray(list)) return list as Problem[]
  return inner === undefined ? [] : problemsOf(inner)
}

/** All that a problem says, also of the data. */
export function problemText (problem: Problem = {}): string {
  return `data${keysOf(problem).map(key => `/${key}`).join('')} ${problem.message ?? 'does not fit'}`
}

/** The rule that is broken, in words of the schema: `message` is none of those where the schema may have its own. */
export function ruleOf ({ message, expected, params, ...problem }: Problem, isJson: boolean): string {
  const rule = [problem.keyword, problem.code, problem.type].find(name => typeof name === 'string')
  if (rule === undefined) return 'does not fit'
  if (isJson && rule === problem.keyword && message !== undefined) return message
  const type = expected ?? params?.expected
  return typeof type === 'string' ? `must be ${type}` : `fails ${rule as string}`
}

/** Where in the data a problem is, as a JSON pointer in which `*` is a key that is not among the names: it may be anything. */
export function pathOf (problem: Problem, data: unknown, names: Set<string>): string {
  let value = data
  let path = ''
  for (const key of keysOf(problem)) {
    path += `/${Array.isArray(value) || names.has(key) ? key : '*'}`
    value = Object(value)[key]
  }
  return path
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

function keysOf ({ instancePath, path }: Problem): string[] {
  if (instancePath === undefined) return Array.isArray(path) ? path.map(String) : []
  return instancePath.split('/').slice(1).filter((key, i, { length }) => key !== '' || length > 1)
    .map(key => key.replaceAll('~1', '/').replaceAll('~0', '~'))
}
