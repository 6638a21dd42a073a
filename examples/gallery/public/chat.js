import { arrived, reset, status } from './live.js'
import { markdown } from './markdown.js'

const form = document.querySelector('#ask')
const stop = document.querySelector('#stop')
const answer = document.querySelector('#answer')
const note = document.querySelector('#source')
let source

form.addEventListener('submit', event => {
  event.preventDefault()
  ask(form.elements.q.value)
})

for (const chip of document.querySelectorAll('.chips button')) {
  chip.addEventListener('click', () => ask(form.elements.q.value = chip.textContent))
}

function ask (question) {
  source?.close()
  let text = ''
  let read = delta
  let ended = false
  reset()
  show('')
  note.textContent = ''
  stop.disabled = false
  answer.setAttribute('aria-busy', 'true')
  status('open', 'Asking.')

  // #region
  source = new EventSource(`/chat/answer?q=${encodeURIComponent(question)}`)

  source.addEventListener('section', ({ data }) => {
    read = character => character
    found(JSON.parse(data))
  })

  source.onmessage = ({ data }) => {
    arrived(data)
    show(text += read(data))
  }

  source.addEventListener('end', () => {
    ended = true
    finish('done', 'Finished. The browser will ask once more.')
  })

  source.onerror = ({ data, target }) => {
    if (ended) {
      // EventSource reconnects after every end. The server answers 204, and it stops.
      if (target.readyState === EventSource.CLOSED) status('done', 'Finished. The browser asked once more, got 204 and stopped.')
      return
    }
    target.close()
    finish('failed', data ? `The answer broke off: ${JSON.parse(data).message}` : 'There is no answer: the connection was refused or lost.')
  }

  stop.onclick = () => {
    source.close()
    finish('stopped', 'Stopped. The server has stopped too.')
  }
  // #endregion
}

/** One piece of a model's answer. */
function delta (data) {
  return data === '[DONE]' ? '' : JSON.parse(data).choices?.[0]?.delta?.content ?? ''
}

function found (headings) {
  note.textContent = headings.length ? `From the README: ${headings.join(' · ')}`.replaceAll('`', '') : ''
  status('open', 'Answering.')
}

function finish (state, text) {
  stop.disabled = true
  answer.setAttribute('aria-busy', 'false')
  status(state, text)
}

let frame

function show (text) {
  cancelAnimationFrame(frame)
  frame = requestAnimationFrame(() => {
    const follow = answer.scrollTop + answer.clientHeight > answer.scrollHeight - 40
    answer.replaceChildren(markdown(text))
    if (follow) answer.scrollTop = answer.scrollHeight
  })
}
