/**
 * `npm run bench:report`: writes what bench/results.json and bench/redis-results.json hold into the README, between its
 * bench marks, and draws bench/scaling.svg. A test holds them equal to what was measured.
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

/** The same of channels over Redis. */
export function redisTableOf ({ machine, client, isQuick, rounds, results }) {
  const range = values => values.map(figure).join(' to ')
  return [
    `${machine.cpu}, ${machine.cores} cores, Node.js ${machine.node}, Redis ${machine.redis}, ${client} ${machine[client]}, ${machine.date}${isQuick ? ', `--quick`' : ''}. Medians of ${rounds} rounds, in brackets the lowest and the highest; rows with ↓: less is better.`,
    '',
    '| | bare | fastify-streaming | ratio |',
    '|---|---|---|---|',
    ...results.map(({ name, unit, isLess, medians: { ours, bare }, spread }) =>
      `| ${name}${isLess ? ' ↓' : ''} | ${bare === 0 ? '–' : `${figure(bare)} ${unit}`.trim()} | ${`${figure(ours)} ${unit}`.trim()} (${range(spread.ours)}) | ${bare === 0 ? '–' : (ours / bare).toFixed(2)} |`)
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
  const [results, redisResults] = await Promise.all(['results.json', 'redis-results.json'].map(async name => JSON.parse(await readFile(new URL(name, import.meta.url), 'utf8'))))
  let readme = await readFile(readmeFile, 'utf8')
  for (const [mark, table] of [['bench', tableOf(results)], ['bench:redis', redisTableOf(redisResults)]]) {
    const marks = new RegExp(`(<!-- ${mark} -->\\n\\n)[^]*?(\\n\\n<!-- /${mark} -->)`)
    if (!marks.test(readme)) throw new Error(`The README has no ${mark} marks`)
    readme = readme.replace(marks, (all, before, after) => `${before}${table}${after}`)
  }
  await writeFile(readmeFile, readme)
  await writeFile(new URL('scaling.svg', import.meta.url), plotOf(results.scaling))
}
