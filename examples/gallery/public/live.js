/**
 * The panel of every demo: a status line with a lamp, two counters, and a strip chart of what arrives.
 */
const panel = document.querySelector('#live')
const line = document.querySelector('#status')
const counters = { count: document.querySelector('#count'), bytes: document.querySelector('#bytes'), unit: document.querySelector('#unit') }
const mark = strip(document.querySelector('#tape'))
const encoder = new TextEncoder()
let count = 0
let bytes = 0

/** Says how the stream is: `idle`, `open`, `done`, `stopped` or `failed`. Read out by screen readers, so not for every event. */
export function status (state, text) {
  panel.dataset.state = state
  line.textContent = text
}

/** Starts counting from nothing. `unit` is what is counted. */
export function reset (unit = 'events') {
  count = bytes = 0
  if (counters.unit) counters.unit.textContent = unit
  show()
}

/** Something arrived: a spike on the strip chart, as high as it is long. */
export function arrived (data, number = 1) {
  const size = typeof data === 'string' ? encoder.encode(data).length : data.length
  count += number
  bytes += size
  mark(size)
  show()
}

export function megabytes (number) {
  if (number < 1000) return `${number} B`
  if (number < 1e6) return `${(number / 1000).toFixed(1)} kB`
  return `${(number / 1e6).toFixed(1)} MB`
}

/** Calls `change` now and whenever the colours change. */
export function withColours (change) {
  const read = () => change(name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim())
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', read)
  read()
}

function show () {
  if (!counters.count) return
  counters.count.textContent = count.toLocaleString('en')
  counters.bytes.textContent = megabytes(bytes)
}

/** A strip chart of the last twelve seconds. It moves only while there is something on it. */
function strip (canvas) {
  const span = 12_000
  const calm = matchMedia('(prefers-reduced-motion: reduce)')
  const context = canvas.getContext('2d')
  let marks = []
  let colour
  let moving = false
  withColours(read => { colour = read('pen'); draw() })
  new ResizeObserver(draw).observe(canvas)

  function draw () {
    const { clientWidth: width, clientHeight: height } = canvas
    canvas.width = width * devicePixelRatio
    canvas.height = height * devicePixelRatio
    context.scale(devicePixelRatio, devicePixelRatio)
    const now = performance.now()
    marks = marks.filter(({ time }) => now - time < span)
    const base = height - 10.5
    context.strokeStyle = colour
    context.lineWidth = 1.5
    context.lineJoin = 'round'
    context.beginPath()
    context.moveTo(0, base)
    for (const { time, size } of marks) {
      const x = width - 8 - (now - time) / span * width
      const top = base - Math.min(height - 18, 6 + 2.6 * Math.log2(size + 1))
      context.lineTo(x - 1.5, base)
      context.lineTo(x, top)
      context.lineTo(x + 1.5, base + 3)
      context.lineTo(x + 2.5, base)
    }
    context.lineTo(width - 8, base)
    context.stroke()
    context.beginPath()
    context.arc(width - 8, base, 3, 0, 7)
    context.fillStyle = colour
    context.fill()
  }

  function move () {
    draw()
    moving = marks.length > 0
    if (moving) calm.matches ? setTimeout(move, 1000) : requestAnimationFrame(move)
  }

  return size => {
    const last = marks.at(-1)
    const time = performance.now()
    if (last && time - last.time < 80) last.size += size
    else marks.push({ time, size })
    if (!moving) { moving = true; requestAnimationFrame(move) }
  }
}
