/**
 * The last step of the build: as with every Fastify plugin, `require('fastify-streaming')` is the plugin, and carries
 * `default` and every named export. dist/index.cjs does that, dist/index.d.cts says it. tsup has no option for it:
 * `cjsInterop` leaves a module with named exports as it is, and its types hide the named ones from TypeScript 7.
 */
import { appendFile, readFile, writeFile } from 'node:fs/promises'

await appendFile(new URL('../dist/index.cjs', import.meta.url), `
if (exports.default) module.exports = Object.assign(exports.default, exports);
`)

const types = new URL('../dist/index.d.cts', import.meta.url)
const names = []
let plugin

const source = (await readFile(types, 'utf8'))
  // `export { a as b } from './chunk.cjs'` cannot stand in a namespace: import it under its public name.
  .replace(/^export (type )?\{ (.+) \} from (.+)$/gm, (_, type = '', list, from) => {
    names.push(...list.split(', ').map(name => name.replace(/.* as /, '').replace(/^type /, '')))
    return `import ${type}{ ${list} } from ${from}`
  })
  .replace(/^export \{ (.+) \};$/gm, (_, list) => {
    names.push(...list.split(', ').map(name => name.replace(/^type /, '')).filter(name => !name.endsWith(' as default')))
    plugin = / ?(\w+) as default/.exec(list)?.[1]
    return ''
  })
  // What fastify-plugin returns is the function it was given.
  .replace(/^declare const (\w+): typeof (\w+);$/gm, (line, constant, original) => {
    if (constant !== plugin) return line
    plugin = original
    return ''
  })

// Only a function and a namespace of one name merge.
if (!source.includes(`declare function ${plugin}(`)) throw new Error('The default export of lib/index.ts must be a function declaration, or fp() of one')
if (/^export /m.test(source)) throw new Error(`Not understood: ${/^export .*$/m.exec(source)[0]}`)

await writeFile(types, `${source.trimEnd()}

declare namespace ${plugin} {
    export { ${[...names, `${plugin} as default`].join(', ')} };
}
export = ${plugin};
`)
