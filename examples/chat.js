/** Answers questions about this package from its README, or by a model if OPENAI_BASE_URL and OPENAI_API_KEY are set. */
import { readFile } from 'node:fs/promises'
import { setTimeout } from 'node:timers/promises'
import { runAlone } from './gallery/app.js'

const common = new Set('a an the and or is are be can do does get happens how there use what when which who why will work i it my of on in to for with'.split(' '))
const schema = { querystring: { type: 'object', required: ['q'], properties: { q: { type: 'string', minLength: 1, maxLength: 500 } } } }

export default async function chat (app, { pace = 5, readme = new URL('../README.md', import.meta.url), env = process.env }) {
  const search = index(await readFile(readme, 'utf8'))
  const answer = env.OPENAI_BASE_URL && env.OPENAI_API_KEY ? relay : type

  // #region
  app.get('/chat/answer', { schema }, ({ query }, reply) => reply.sse(
    (stream, signal) => answer(query.q, signal),
    { reconnect: false, commitAfter: 10_000 }
  ))

  // One character an event.
  async function * type (question, signal) {
    const found = search(question)
    yield { event: 'section', data: found.map(({ heading }) => heading) }
    for (const { segment } of new Intl.Segmenter().segment(found[0]?.text ?? 'I found nothing.')) {
      yield segment
      await setTimeout(pace, undefined, { signal })
    }
  }

  // With a model: its event stream is relayed, and cancelled when you leave.
  function relay (question, signal) {
    const content = ['Answer from this README:', ...search(question).map(({ text }) => text), question].join('\n\n')
    return fetch(`${env.OPENAI_BASE_URL.replace(/\/$/, '')}/chat/completions`, {
      method: 'POST',
      signal,
      headers: { authorization: `Bearer ${env.OPENAI_API_KEY}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: env.OPENAI_MODEL ?? 'gpt-4o-mini', stream: true, messages: [{ role: 'user', content }] })
    })
  }
  // #endregion
}

/** Gives a search for the four sections that fit a question best (tf-idf; words of a heading count more). */
function index (markdown) {
  const blocks = markdown.replaceAll('\r\n', '\n').match(/^#+ .*\n(?:```[^]*?\n```\n|(?!#+ ).*\n)*/gm) ?? []
  const sections = blocks.map(text => ({ text: text.trim(), heading: text.match(/^#+ (.*)/)[1] }))
    .filter(({ text, heading }) => text.length > heading.length + 60)
    .map(section => ({ ...section, title: stems(section.heading), body: stems(section.text) }))
  const share = (stem, stems) => stems.filter(other => other === stem).length / (stems.length || 1)
  const rarity = stem => Math.log(1 + sections.length / (1 + sections.filter(({ body }) => body.includes(stem)).length))
  const weight = (stem, { title, body }) => rarity(stem) * (Math.sqrt(share(stem, body)) + share(stem, title) / 2)
  return question => sections.map(section => ({ ...section, score: stems(question).reduce((sum, stem) => sum + weight(stem, section), 0) }))
    .filter(section => section.score > 0).sort((a, b) => b.score - a.score).slice(0, 4)
}

function stems (text) {
  const words = text.match(/[\p{L}\p{N}_]+/gu)?.flatMap(word => [word, ...word.split(/_|(?<=\p{Ll})(?=\p{Lu})/u)]) ?? []
  return words.map(word => word.toLowerCase()).filter(word => !common.has(word)).map(word => word.replace(/(?<=...)(ies|ing|ed|es|s|y|e)$/, ''))
}

await runAlone(import.meta.url, chat)
