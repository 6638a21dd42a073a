import { arrived, megabytes, reset, status } from './live.js'

const [file, drop, random, stop, slow, progress, received, theirs, ours, verdict] =
  ['file', 'drop', 'random', 'stop', 'slow', 'progress', 'received', 'theirs', 'ours', 'verdict'].map(id => document.getElementById(id))

file.addEventListener('change', () => file.files[0] && send(file.files[0]))
drop.addEventListener('dragover', event => { event.preventDefault(); drop.classList.add('over') })
drop.addEventListener('dragleave', () => drop.classList.remove('over'))
drop.addEventListener('drop', event => {
  event.preventDefault()
  drop.classList.remove('over')
  if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0])
})
random.addEventListener('click', () => {
  const parts = Array.from({ length: 1000 }, () => crypto.getRandomValues(new Uint8Array(64_000)))
  send(new File(parts, 'random bytes'))
})

function send (body) {
  const id = crypto.randomUUID()
  const controller = new AbortController()
  reset()
  progress.max = body.size || 1
  progress.value = 0
  received.textContent = '0 B'
  theirs.textContent = ours.textContent = '–'
  verdict.textContent = ''
  random.disabled = file.disabled = true
  stop.disabled = false

  // #region
  const source = new EventSource(`/upload/${id}/events`)

  source.onopen = async () => {
    status('open', `Sending ${body.name}.`)
    const response = await fetch(`/upload/${id}?pace=${slow.checked ? 2 : 0}`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body,
      signal: controller.signal
    }).catch(error => error)
    if (!response.ok && !controller.signal.aborted) finish('failed', `The upload failed: ${response.message ?? response.status}`)
  }

  source.addEventListener('progress', ({ data }) => {
    arrived(data)
    show(JSON.parse(data).received)
  })

  source.addEventListener('done', ({ data }) => {
    arrived(data)
    show(JSON.parse(data).received)
    finish('done', 'Finished.')
    compare(body, JSON.parse(data).sha256)
  })
  // #endregion

  source.onerror = () => finish('failed', 'The connection is lost.')
  stop.onclick = () => finish('stopped', 'Stopped. The server has what was sent until then.')

  function finish (state, text) {
    source.close()
    if (state !== 'done') controller.abort()
    status(state, text)
    random.disabled = file.disabled = false
    stop.disabled = true
    file.value = ''
  }
}

function show (bytes) {
  progress.value = bytes
  received.textContent = `${megabytes(bytes)} of ${megabytes(progress.max)}`
}

async function compare (body, sha256) {
  theirs.textContent = sha256
  if (body.size > 500e6) {
    ours.textContent = 'not computed: the file is too large for this page'
    return
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await body.arrayBuffer()))
  ours.textContent = Array.from(digest, byte => byte.toString(16).padStart(2, '0')).join('')
  verdict.textContent = ours.textContent === sha256 ? 'Both are the same: every byte has arrived.' : 'They differ: the file has changed on its way.'
}
