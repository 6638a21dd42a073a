/**
 * `npm run bench:report`: writes what bench/results.json holds into the README, between its bench marks, and draws
 * bench/scaling.svg. A test holds both equal to what was measured.
 */
import { readFile, writeFile } from 'node:fs/promises'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { plotOf } from './load/plot.js'

const columns = ['fastify-streaming', '@fastify/sse', 'fastify-sse-v2', 'better-sse', 'hono', 'h3', 'fastify + reply.raw', 'reply.send(Readable)', 'C']

/** What stands between the marks: the machine, how to read the table, and the table. */
export function tableOf ({ machine, isQuick, results }) {
  const names = columns.map(name => name === 'fastify-streaming' ? name : name.replace(/^(\S+\.\S+)$/, '`$1`'))
  return [
    `${machine.cpu}, ${machine.cores} cores, Node.js ${machine.node}, ${machine.date}${isQuick ? ', `--quick`' : ''}. Ratios to plain \`node:http\`: more is better, less in rows with ↓.${busiest(results)}`,
    '',
    `| | plain \`node:http\` | ${names.join(' | ')} |`,
    `|---|${'---|'.repeat(columns.length + 1)}`,
    ...results.map(({ name, unit, note, isLess, medians, ratios }) =>
      `| ${name}${note === undefined ? '' : ` (${note})`}${isLess ? ' ↓' : ''} | ${figure(medians.raw)} ${unit} | ${columns.map(library => ratios[library]?.toFixed(2) ?? '–').join(' | ')} |`)
  ].join('\n')
}

/** The row in which the client had the most to do, so that nobody has to believe that it was not what was measured. */
function busiest (results) {
  const shares = results.flatMap(({ name, clientShare = {} }) => Object.entries(clientShare).map(([library, share]) => ({ name, library, share })))
  if (shares.length === 0) return ''
  const { name, library, share } = shares.reduce((most, one) => one.share > most.share ? one : most)
  return ` The client took ${Math.round(share * 100)} % of its core at most (${name}: ${library}).`
}

function figure (value) {
  return value.toLocaleString('en-US', { maximumSignificantDigits: 3 })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const readmeFile = new URL('../README.md', import.meta.url)
  const results = JSON.parse(await readFile(new URL('results.json', import.meta.url), 'utf8'))
  const readme = await readFile(readmeFile, 'utf8')
  const marks = /(<!-- bench -->\n\n)[^]*?(\n\n<!-- \/bench -->)/
  if (!marks.test(readme)) throw new Error('The README has no bench marks')
  await writeFile(readmeFile, readme.replace(marks, (all, before, after) => `${before}${tableOf(results)}${after}`))
  await writeFile(new URL('scaling.svg', import.meta.url), plotOf(results.scaling))
}
