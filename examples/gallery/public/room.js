import { arrived, status } from './live.js'

const [messages, write, text, name, cut, problem] = ['messages', 'write', 'text', 'name', 'cut', 'problem'].map(id => document.getElementById(id))
const reasons = {
  trimmed: 'more was written than the server keeps',
  unknown: 'the server does not know any more what you have seen',
  slow: 'this tab has read too slowly'
}

name.value = `Guest ${100 + Math.floor(Math.random() * 900)}`

// #region
const source = new EventSource('/room/messages')

// First of all, and again whenever the browser comes back.
let isBack = false
source.addEventListener('position', () => {
  status('open', isBack ? 'Back, and nothing is missing.' : 'In the room.')
  isBack = true
})

// Instead of the position, when something is missing.
source.addEventListener('gap', ({ data }) => {
  status('open', 'Back. Some messages are missing.')
  add('gap', `Here some messages are missing: ${reasons[JSON.parse(data).reason]}.`)
})

source.onmessage = ({ data }) => {
  arrived(data)
  show(JSON.parse(data))
}

source.onerror = () => status('failed', 'The connection is lost. Trying again.')

let id
text.addEventListener('input', () => { id = undefined })
write.addEventListener('submit', async event => {
  event.preventDefault()
  if (text.readOnly) return
  text.readOnly = true
  id ??= crypto.randomUUID() // the same one, should it have to be sent again
  const isSent = await send({ id, name: name.value, text: text.value })
  text.readOnly = false
  if (!isSent) return
  text.value = ''
  id = undefined
})

// Perhaps it was the answer that was lost. The id makes up for that.
async function send (message, attempts = 3) {
  const response = await fetch('/room/messages', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(message)
  }).catch(error => error)
  const isOver = response.status < 500 || attempts === 1
  problem.textContent = response.ok
    ? ''
    : `Not sent: ${response.message ?? response.status}. ${isOver ? 'Send it again.' : 'Sending it again.'}`
  if (isOver) return response.ok
  await new Promise(resolve => setTimeout(resolve, 1000))
  return send(message, attempts - 1)
}
// #endregion

cut.addEventListener('click', () => fetch('/room/cut', { method: 'POST' }))

function show ({ name, text, time }) {
  add('message', new Date(time).toLocaleTimeString([], { hour12: false, hour: '2-digit', minute: '2-digit' }), name, text)
}

function add (className, ...texts) {
  const line = document.createElement('p')
  line.className = className
  line.append(...texts.map(textContent => Object.assign(document.createElement('span'), { textContent })))
  const follow = messages.scrollTop + messages.clientHeight > messages.scrollHeight - 40
  messages.append(line)
  if (messages.childElementCount > 300) messages.firstElementChild.remove()
  if (follow) messages.scrollTop = messages.scrollHeight
}
