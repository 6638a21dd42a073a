import { arrived, reset, status } from './live.js'

const start = document.querySelector('#start')
const stop = document.querySelector('#stop')
const output = document.querySelector('#output')
const about = document.querySelector('#process')

start.addEventListener('click', run)

function run () {
  start.disabled = true
  stop.disabled = false
  output.textContent = ''
  reset('lines')
  status('open', 'Starting.')

  // #region
  const source = new EventSource('/command/output')
  source.addEventListener('start', ({ data }) => {
    about.textContent = `Process ${JSON.parse(data).pid}. It is killed when you stop it or close this page.`
    status('open', 'Running.')
  })
  source.onmessage = ({ data }) => {
    arrived(data)
    show(data)
  }
  source.addEventListener('exit', ({ data }) => finish('done', `Finished with exit code ${JSON.parse(data).code}.`))
  source.onerror = ({ data }) => finish('failed', data ? JSON.parse(data).message : 'The connection is lost.')
  stop.onclick = () => finish('stopped', 'Stopped. The process is killed.')

  function finish (state, text) {
    source.close()
    status(state, text)
    start.disabled = false
    stop.disabled = true
  }
  // #endregion
}

function show (line) {
  const follow = output.scrollTop + output.clientHeight > output.scrollHeight - 40
  output.append(`${line}\n`)
  if (follow) output.scrollTop = output.scrollHeight
}
