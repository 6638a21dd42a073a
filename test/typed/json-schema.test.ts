import '../fixtures/guard.ts'
import t from 'tap'
import { selfContained } from '../../lib/typed/json-schema.ts'

const word = { type: 'string' }

t.test('values in a schema are values, whatever they look like, and names are names', t => {
  const value = { $ref: '#/definitions/word', default: 'x' }
  const names = { enum: { $ref: '#/definitions/word' }, $ref: word, properties: word, pick: { enum: [value] } }
  t.strictSame(selfContained({ definitions: { word }, type: 'object', default: value, examples: [value], const: value, properties: names }), {
    type: 'object', default: value, examples: [value], const: value, properties: { enum: word, $ref: word, properties: word, pick: { enum: [value] } }
  })
  t.end()
})

t.test('definitions may be true and false, and what stands beside a reference stays', t => {
  t.strictSame(selfContained({ $defs: { all: true, none: false, word }, properties: { a: { $ref: '#/$defs/all' }, b: { $ref: '#/$defs/none' }, c: { $ref: '#/$defs/word', title: 'c' } } }), {
    properties: { a: {}, b: { not: {} }, c: { type: 'string', title: 'c' } }
  })
  t.end()
})

t.test('a definition that leads back to itself is there once, and anything from then on', t => {
  const definitions = {
    one: { properties: { two: { $ref: '#/definitions/two' }, word: { $ref: '#/definitions/word' }, other: { $ref: 'other#' } } },
    two: { items: [{ $ref: '#/definitions/three' }] },
    three: { properties: { back: { $ref: '#/definitions/one' }, word: { $ref: '#/definitions/word' } }, const: { $ref: '#/definitions/four' } },
    four: { $ref: '#/definitions/one' },
    word
  }
  const once = { properties: { two: {}, word, other: { $ref: 'other#' } } }
  t.strictSame(selfContained({ definitions, items: { $ref: '#/definitions/one' } }), { items: once })
  t.strictSame(selfContained({ definitions, items: { $ref: '#/definitions/four' } }), { items: once }, 'a value leads nowhere')
  t.end()
})

t.test('every place in a schema that has schemas is looked at', t => {
  const $ref = '#/$defs/word'
  t.strictSame(selfContained({ $defs: { word }, patternProperties: { '^example$': { $ref } }, dependentSchemas: { const: { $ref } }, example: { $ref }, anyOf: [{ $ref }], properties: { default: { $ref } } }), {
    patternProperties: { '^example$': word }, dependentSchemas: { const: word }, example: { $ref }, anyOf: [word], properties: { default: word }
  })
  t.end()
})

t.test('a definition may be referred to by its id or its anchor', t => {
  const $defs = { one: { $id: 'One', type: 'object', properties: { next: { $ref: 'One' } } }, 'a/b': { $anchor: 'two', type: 'integer' }, three: { $id: '#three', type: 'null' } }
  const properties = { one: { $ref: 'One' }, again: { $ref: 'One#' }, two: { $ref: '#two' }, three: { $ref: '#three' }, other: { $ref: '#other' } }
  t.strictSame(selfContained({ $defs, properties }), {
    properties: { one: { type: 'object', properties: { next: {} } }, again: { type: 'object', properties: { next: {} } }, two: { type: 'integer' }, three: { type: 'null' }, other: { $ref: '#other' } }
  })
  t.end()
})

t.test('definitions that are each needed twice do not become two to the power of their number', t => {
  const definitions: Record<string, object> = { d40: word }
  for (let i = 0; i < 40; i++) definitions[`d${i}`] = { items: [{ $ref: `#/definitions/d${i + 1}` }, { $ref: `#/definitions/d${i + 1}` }] }
  t.ok(JSON.stringify(selfContained({ definitions, $ref: '#/definitions/d0' })).length < 100_000)
  t.end()
})

t.test('a name in a pointer may have any character', t => {
  t.strictSame(selfContained({ definitions: { '~1': word }, $ref: '#/definitions/~01' }), word)
  t.strictSame(selfContained({ definitions: { 'a/b~ c': word }, $ref: '#/definitions/a~1b~0%20c' }), word)
  t.end()
})
