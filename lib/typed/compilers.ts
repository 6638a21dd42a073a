/**
 * What compiles the schemas of events: what compiles those of a route.
 */
import type { FastifyInstance, FastifySchemaCompiler, FastifySerializerCompiler } from 'fastify'
import { internalOf } from '../internals.ts'
import type { TypedEvent } from './event.ts'

export type ValidatorCompiler = FastifySchemaCompiler<unknown>
export type SerializerCompiler = FastifySerializerCompiler<unknown>

export interface Compilers {
  readonly validator: ValidatorCompiler
  readonly serializer: SerializerCompiler
  /** What schemas may refer to. */
  readonly shared: Record<string, unknown>
  /**
   * Checks a schema by the rules of JSON Schema alone, whatever it refers to; undefined where schemas may be of another kind.
   * https://json-schema.org/draft-07/schema
   */
  readonly rules: ReturnType<ValidatorCompiler> | undefined
  /** What they have compiled, by the events of a route or a channel. */
  readonly compiled: WeakMap<object, Map<string, TypedEvent>>
}

/** Compilers that a route has for itself. */
export interface OwnCompilers {
  validatorCompiler?: FastifySchemaCompiler<never>
  serializerCompiler?: FastifySerializerCompiler<never>
}

interface SchemaController {
  /** Somebody has set a compiler on the instance, or on one that it is a child of. */
  isCustomValidatorCompiler?: boolean
  isCustomSerializerCompiler?: boolean
  getValidatorBuilder (): (schemas: object, options: object) => ValidatorCompiler
  getSerializerBuilder (): (schemas: object, options: unknown) => SerializerCompiler
}

// Data is to fit as it is: an event is refused, not repaired.
const strict = { coerceTypes: false, useDefaults: false, removeAdditional: false }

/** The compilers of instances, each made once for as long as the instance is given no other and no schema. */
export class InstanceCompilers {
  readonly #made = new WeakMap<FastifyInstance, ContextCompilers>()

  /** The compilers of an instance, but for those that a route has for itself. */
  of (app: FastifyInstance, { validatorCompiler, serializerCompiler }: OwnCompilers = {}): Compilers {
    const context = this.#ofContext(app)
    if (validatorCompiler === undefined && serializerCompiler === undefined) return context
    return {
      get validator () { return validatorCompiler as ValidatorCompiler | undefined ?? context.validator },
      get serializer () { return serializerCompiler as SerializerCompiler | undefined ?? context.serializer },
      shared: context.shared,
      get rules () { return validatorCompiler === undefined ? context.rules : undefined },
      compiled: new WeakMap()
    }
  }

  #ofContext (app: FastifyInstance): ContextCompilers {
    const now = new ContextCompilers(app)
    const made = this.#made.get(app)
    if (made?.isSameAs(now) === true) return made
    this.#made.set(app, now)
    return now
  }
}

/** Compilers that were set on an instance or on what it is a child of, else Fastify's own with the app's options. */
class ContextCompilers implements Compilers {
  readonly compiled: Compilers['compiled'] = new WeakMap()
  readonly shared: Record<string, unknown>
  readonly #app: FastifyInstance
  readonly #controller: SchemaController
  readonly #custom: [validator: ValidatorCompiler | undefined, serializer: SerializerCompiler | undefined]
  #validator: ValidatorCompiler | undefined
  #serializer: SerializerCompiler | undefined
  #rules: Compilers['rules']

  constructor (app: FastifyInstance) {
    const controller = internalOf(app, 'fastify.schemaController') as SchemaController
    this.#app = app
    this.#controller = controller
    this.shared = app.getSchemas()
    this.#custom = [
      controller.isCustomValidatorCompiler === true ? app.validatorCompiler as ValidatorCompiler | undefined : undefined,
      controller.isCustomSerializerCompiler === true ? app.serializerCompiler as SerializerCompiler | undefined : undefined
    ]
  }

  isSameAs (other: ContextCompilers): boolean {
    // Schemas can be added, and neither changed nor removed.
    return this.#custom.every((compiler, i) => compiler === other.#custom[i]) && Object.keys(this.shared).length === Object.keys(other.shared).length
  }

  get validator (): ValidatorCompiler {
    this.#validator ??= this.#custom[0] ?? this.#ajv(this.shared)
    return this.#validator
  }

  get serializer (): SerializerCompiler {
    this.#serializer ??= this.#custom[1] ?? this.#fastJsonStringify()
    return this.#serializer
  }

  get rules (): Compilers['rules'] {
    if (this.#custom[0] !== undefined) return undefined
    try {
      this.#rules ??= this.#ajv({})({ schema: { $ref: 'http://json-schema.org/draft-07/schema#' }, method: '', url: '' })
    } catch {
      // Its options say that it is not for JSON Schema.
    }
    return this.#rules
  }

  #ajv (schemas: object): ValidatorCompiler {
    const { ajv } = this.#options
    return this.#controller.getValidatorBuilder()(schemas, { ...ajv, customOptions: { ...ajv.customOptions, ...strict } })
  }

  #fastJsonStringify (): SerializerCompiler {
    const compile = this.#controller.getSerializerBuilder()(textLast(this.shared) as object, this.#options.serializerOpts)
    return ({ schema, ...of }) => compile({ ...of, schema: textLast(schema) })
  }

  get #options (): { ajv: { customOptions: object }, serializerOpts?: unknown } {
    return internalOf(this.#app, 'fastify.options') as never
  }
}

/**
 * The schema with 'string' as the last of the types of a list. The serializer takes the first one that a value can be
 * made, and makes a string of an array: ['a', 'b'] would be sent as "a,b".
 */
function textLast (schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(textLast)
  if (typeof schema !== 'object' || schema === null) return schema
  return Object.fromEntries(Object.entries(schema).map(([key, value]) =>
    [key, key === 'type' && Array.isArray(value) && value.includes('string') ? [...value.filter(type => type !== 'string'), 'string'] : textLast(value)]))
}
