/**
 * What compiles the schemas of events: what compiles those of a route.
 */
import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance, FastifySchemaCompiler, FastifySerializerCompiler } from 'fastify'
import { internalOf } from '../internals.ts'
import { isPlainObject } from '../options.ts'
import type { SchemaCodec } from './codec.ts'
import { keywordsOfNames, keywordsOfValues } from './json-schema.ts'

export type ValidatorCompiler = FastifySchemaCompiler<unknown>
export type SerializerCompiler = FastifySerializerCompiler<unknown>

/** Compilers that a route has for itself. */
export interface OwnCompilers {
  validatorCompiler?: FastifySchemaCompiler<never>
  serializerCompiler?: FastifySerializerCompiler<never>
}

interface CompilersFactory {
  buildValidator (schemas: object, options: object): ValidatorCompiler
  buildSerializer (schemas: object, options: unknown): SerializerCompiler
}

/** Fastify's, of which each context has one. */
interface SchemaController {
  parent?: SchemaController
  /** Of its own, or of an outer context. */
  opts: { compilersFactory: Partial<CompilersFactory>, isCustomValidatorCompiler?: boolean, isCustomSerializerCompiler?: boolean }
  /** That of `opts`, until a compiler is set: then it gives that one. */
  compilersFactory: Partial<CompilersFactory>
  /** A compiler was set on the context or an outer one, or the app has a factory of its own. */
  isCustomValidatorCompiler?: boolean
  isCustomSerializerCompiler?: boolean
  validatorCompiler?: ValidatorCompiler
  serializerCompiler?: SerializerCompiler
}

// Data is to fit as it is: an event is refused, not repaired.
const strict = { coerceTypes: false, useDefaults: false, removeAdditional: false }

/** The compilers of instances, each made once for as long as the instance is given no other and no schema. */
export class InstanceCompilers {
  readonly #made = new WeakMap<FastifyInstance, Compilers>()

  /** The compilers of an instance, but for those that a route has for itself. */
  of (app: FastifyInstance, own: OwnCompilers = {}): Compilers {
    const now = new Compilers(app, own)
    if (now.isOfRoute) return now
    const made = this.#made.get(app)
    if (made?.isUpToDate(now) === true) return made
    this.#made.set(app, now)
    return now
  }
}

/** Compilers that were set on a route, on an instance or on what it is a child of, else Fastify's own with the app's options. */
export class Compilers {
  readonly isOfRoute: boolean
  /** What schemas may refer to. */
  readonly shared: Readonly<Record<string, unknown>>
  /** What they have compiled, by the text of schemas that are nothing but JSON, and by the schema. */
  readonly compiled = { texts: new Map<string, SchemaCodec>(), schemas: new WeakMap<object, SchemaCodec>() }
  readonly #app: FastifyInstance
  readonly #set: { validator: ValidatorCompiler | undefined, serializer: SerializerCompiler | undefined }
  readonly #factory: CompilersFactory
  /** Whether what the factory makes is Fastify's own. */
  readonly #isFastifys: { validator: boolean, serializer: boolean }
  #validator: ValidatorCompiler | undefined
  #serializer: SerializerCompiler | undefined
  #rules: ReturnType<ValidatorCompiler> | undefined

  constructor (app: FastifyInstance, { validatorCompiler, serializerCompiler }: OwnCompilers) {
    const controller = internalOf(app, 'fastify.schemaController') as SchemaController
    const { opts } = outermost(controller)
    this.isOfRoute = isGiven(validatorCompiler) || isGiven(serializerCompiler)
    this.shared = app.getSchemas()
    this.#app = app
    this.#set = {
      validator: validatorCompiler as ValidatorCompiler | null | undefined ?? compilerSet(controller, 'isCustomValidatorCompiler', 'buildValidator')?.validatorCompiler,
      serializer: serializerCompiler as SerializerCompiler | null | undefined ?? compilerSet(controller, 'isCustomSerializerCompiler', 'buildSerializer')?.serializerCompiler
    }
    this.#factory = { buildValidator: builderOf(controller, 'buildValidator'), buildSerializer: builderOf(controller, 'buildSerializer') }
    this.#isFastifys = {
      validator: this.#set.validator === undefined && opts.isCustomValidatorCompiler !== true && this.#factory.buildValidator === opts.compilersFactory.buildValidator,
      serializer: this.#set.serializer === undefined && opts.isCustomSerializerCompiler !== true && this.#factory.buildSerializer === opts.compilersFactory.buildSerializer
    }
  }

  /** True if nothing was set on the instance, and no schema was added, since. */
  isUpToDate (now: Compilers): boolean {
    const ids = Object.keys(now.shared)
    return this.#isLike(now) && ids.length === Object.keys(this.shared).length && ids.every(id => this.shared[id] === now.shared[id])
  }

  /** True if the two make the same of a schema, which may refer to others. */
  areAs (others: Compilers, mayRefer: boolean): boolean {
    if (this === others) return true
    // What a schema refers to is there in both, and so is what that refers to.
    return this.#isLike(others) &&
      (!mayRefer || Object.entries(this.shared).every(([id, schema]) => !Object.hasOwn(others.shared, id) || isDeepStrictEqual(schema, others.shared[id])))
  }

  get validator (): ValidatorCompiler {
    this.#validator ??= this.#set.validator ?? this.#buildValidator(this.shared)
    return this.#validator
  }

  get serializer (): SerializerCompiler {
    this.#serializer ??= this.#set.serializer ?? this.#buildSerializer()
    return this.#serializer
  }

  /**
   * Checks a schema by the rules of JSON Schema alone, whatever it refers to; undefined where schemas may be of another kind.
   * https://json-schema.org/draft-07/schema
   */
  get rules (): ReturnType<ValidatorCompiler> | undefined {
    if (!this.#isFastifys.validator) return undefined
    try {
      this.#rules ??= this.#buildValidator({})({ schema: { $ref: 'http://json-schema.org/draft-07/schema#' }, method: '', url: '' })
    } catch {
      // Its options say that it is not for JSON Schema.
    }
    return this.#rules
  }

  #isLike (others: Compilers): boolean {
    return this.#set.validator === others.#set.validator && this.#set.serializer === others.#set.serializer &&
      this.#factory.buildValidator === others.#factory.buildValidator && this.#factory.buildSerializer === others.#factory.buildSerializer
  }

  #buildValidator (schemas: object): ValidatorCompiler {
    const { ajv } = this.#options
    return this.#factory.buildValidator(schemas, { ...ajv, customOptions: { ...ajv.customOptions, ...strict } })
  }

  #buildSerializer (): SerializerCompiler {
    const { serializerOpts } = this.#options
    if (!this.#isFastifys.serializer) return this.#factory.buildSerializer(this.shared, serializerOpts)
    const compile = this.#factory.buildSerializer(textLast(this.shared) as object, serializerOpts)
    return ({ schema, ...route }) => compile({ ...route, schema: textLast(schema) })
  }

  get #options (): { ajv: { customOptions: object }, serializerOpts?: unknown } {
    return internalOf(this.#app, 'fastify.options') as never
  }
}

/** The context on which the compiler of an instance was set; undefined when none was. */
function compilerSet (
  controller: SchemaController, isCustom: 'isCustomValidatorCompiler' | 'isCustomSerializerCompiler', build: keyof CompilersFactory
): SchemaController | undefined {
  if (controller[isCustom] !== true) return undefined
  let context: SchemaController | undefined = controller
  while (context !== undefined && context.compilersFactory[build] === context.opts.compilersFactory[build]) context = context.parent
  return context
}

/** What makes the compilers of an instance on which none is set. */
function builderOf<Name extends keyof CompilersFactory> ({ opts, parent }: SchemaController, name: Name): CompilersFactory[Name] {
  return opts.compilersFactory[name] ?? builderOf(parent as SchemaController, name)
}

function outermost (controller: SchemaController): SchemaController {
  return controller.parent === undefined ? controller : outermost(controller.parent)
}

// Fastify has null for none.
function isGiven (compiler: unknown): boolean {
  return compiler !== undefined && compiler !== null
}

/**
 * The schema with 'string' as the last of the types of a list. Fastify's serializer takes the first one that a value can
 * be made, and makes a string of an array: ['a', 'b'] would be sent as "a,b".
 */
function textLast (schema: unknown, isOfNames = false): unknown {
  if (Array.isArray(schema)) return schema.map(item => textLast(item))
  if (!isPlainObject(schema)) return schema
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => {
    if (!isOfNames && key === 'type' && Array.isArray(value) && value.includes('string')) return [key, [...value.filter(type => type !== 'string'), 'string']]
    return [key, !isOfNames && keywordsOfValues.has(key) ? value : textLast(value, !isOfNames && keywordsOfNames.has(key))]
  }))
}
