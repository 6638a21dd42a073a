import { arrived, status } from './live.js'

const lines = document.querySelector('#lines')
const stop = document.querySelector('#stop')
const levels = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' }

// #region
let source
function start () {
  source = new EventSource('/log-tail/lines')
  source.onopen = () => status('open', 'Following the log.')
  source.onerror = () => status('failed', 'The connection is lost. Trying again.')
  source.onmessage = ({ data }) => {
    arrived(data)
    show(JSON.parse(data))
  }
}
// #endregion

start()

stop.addEventListener('click', () => {
  if (source.readyState === EventSource.CLOSED) {
    lines.replaceChildren()
    start()
    stop.textContent = 'Stop'
  } else {
    source.close()
    stop.textContent = 'Go on'
    status('stopped', 'Stopped.')
  }
})

for (const button of document.querySelectorAll('[data-request]')) {
  button.addEventListener('click', () => fetch(button.dataset.request))
}

function show ({ level, time, reqId, req, res, responseTime, stream, err, msg }) {
  const details = [
    req && `${req.method} ${req.url}`,
    res && res.statusCode,
    responseTime && `in ${responseTime.toFixed(1)} ms`,
    stream && `${stream.kind} ${stream.reason}, ${stream.kind === 'sse' ? `${stream.events} events, ` : ''}${stream.bytes} bytes`,
    err && err.message !== msg && err.message
  ].filter(Boolean).join(' ')
  const line = document.createElement('p')
  line.className = levels[level]
  line.append(...[new Date(time).toLocaleTimeString([], { hour12: false }), levels[level], reqId ?? '', `${msg} ${details}`].map(textContent =>
    Object.assign(document.createElement('span'), { textContent })))
  const follow = lines.scrollTop + lines.clientHeight > lines.scrollHeight - 40
  lines.append(line)
  if (lines.childElementCount > 300) lines.firstElementChild.remove()
  if (follow) lines.scrollTop = lines.scrollHeight
}
