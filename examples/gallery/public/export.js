import { arrived, megabytes, reset, status } from './live.js'

const [start, stop, progress, rows, speed, memory, growth, row] =
  ['start', 'stop', 'progress', 'rows', 'speed', 'memory', 'growth', 'row'].map(id => document.getElementById(id))

start.addEventListener('click', load)

async function load () {
  start.disabled = true
  stop.disabled = false
  reset('rows')
  status('open', 'Exporting.')
  const controller = new AbortController()
  stop.onclick = () => controller.abort()
  const began = performance.now()
  let bytes = 0
  let read = 0

  let first
  const measure = new EventSource('/export/memory')
  measure.onmessage = ({ data }) => {
    first ??= Number(data)
    memory.textContent = megabytes(Number(data))
    growth.textContent = `${data < first ? '−' : '+'}${megabytes(Math.abs(data - first))}`
  }

  // #region
  try {
    const response = await fetch('/export/days.ndjson', { signal: controller.signal })
    progress.max = Number(response.headers.get('x-rows'))
    const reader = response.body.getReader()
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
      show(value)
    }
    status('done', 'Finished. Every row is here.')
  } catch (error) {
    // A body that was cut off is an error, so half an export is never taken for a whole one.
    if (controller.signal.aborted) status('stopped', 'Stopped. The server makes no more rows.')
    else status('failed', `The export broke off: ${error.message}`)
  }
  // #endregion

  measure.close()
  start.disabled = false
  stop.disabled = true

  function show (chunk) {
    let lines = 0
    for (const byte of chunk) if (byte === 10) lines++
    arrived(chunk, lines)
    bytes += chunk.length
    progress.value = read += lines
    rows.textContent = `${read.toLocaleString('en')} of ${progress.max.toLocaleString('en')}`
    speed.textContent = `${megabytes(Math.round(bytes / (performance.now() - began) * 1000))}/s`
    const latest = new TextDecoder().decode(chunk.subarray(-1000)).split('\n').slice(1, -1).at(-1)
    if (latest) row.textContent = JSON.stringify(JSON.parse(latest), null, 2)
  }
}
