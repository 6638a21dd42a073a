import { defineConfig } from 'tsup'

export default defineConfig({
  // One line an entry point; `exports` of package.json has the same list.
  entry: {
    index: 'lib/index.ts',
    redis: 'lib/brokers/redis.ts',
    testing: 'lib/testing.ts'
  },
  format: ['esm', 'cjs'],
  target: 'node20',
  clean: true,
  silent: true,
  dts: true,
  // In CommonJS too: otherwise every entry point would carry its own copy of the shared classes.
  splitting: true,
  // Makes rollup write the CommonJS chunks. tsup's own way is sucrase, which turns each `?.` and `??` into a closure and a call.
  treeshake: true,
  removeNodeProtocol: false
})
