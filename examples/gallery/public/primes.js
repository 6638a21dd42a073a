import { arrived, reset, status, withColours } from './live.js'

const start = document.querySelector('#start')
const stop = document.querySelector('#stop')
const text = document.querySelector('#text')
const canvas = document.querySelector('#spiral')
const spiral = canvas.getContext('2d')
let found = []

start.addEventListener('click', load)
withColours(colour => {
  spiral.fillStyle = colour('pen')
  spiral.clearRect(0, 0, canvas.width, canvas.height)
  for (const prime of found) dot(prime)
})

async function load () {
  start.disabled = true
  stop.disabled = false
  text.textContent = ''
  found = []
  spiral.clearRect(0, 0, canvas.width, canvas.height)
  reset('primes')
  status('open', 'Counting.')
  const controller = new AbortController()
  stop.onclick = () => controller.abort()
  let rest = ''

  // #region
  try {
    const response = await fetch('/primes/text', { signal: controller.signal })
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) show(value)
    status('done', 'Finished: the callback returned false.')
  } catch (error) {
    if (controller.signal.aborted) status('stopped', 'Stopped. The callback is not called any more.')
    else status('failed', `The text broke off: ${error.message}`)
  }
  // #endregion

  start.disabled = false
  stop.disabled = true

  function show (chunk) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()
    arrived(chunk, lines.length)
    const follow = text.scrollTop + text.clientHeight > text.scrollHeight - 40
    text.append(chunk)
    if (follow) text.scrollTop = text.scrollHeight
    for (const line of lines) {
      found.push(Number(line))
      dot(Number(line))
    }
  }
}

/** Marks a number on a spiral of whole numbers that starts with 1 in the middle. */
function dot (n) {
  const middle = (canvas.width - 1) / 2
  const ring = Math.ceil((Math.sqrt(n) - 1) / 2)
  const side = 2 * ring || 1
  const steps = (2 * ring + 1) ** 2 - n
  const along = steps % side
  const [x, y] = [[ring - along, ring], [-ring, ring - along], [along - ring, -ring], [ring, along - ring]][Math.floor(steps / side) % 4]
  spiral.fillRect(middle + x, middle + y, 1, 1)
}
