import { arrived, status } from './live.js'

const [add, total, stop, board] = ['add', 'total', 'stop', 'board'].map(id => document.getElementById(id))
const tab = crypto.randomUUID()
const cursors = new Map()

// #region
let source
function start () {
  source = new EventSource('/board/events')
  source.onerror = () => status('failed', 'The connection is lost. Trying again.')
  // Where this tab goes on from: what comes now is all that came after it.
  source.addEventListener('position', () => status('open', 'Following all tabs.'))
  // Too much has come since this tab was here. What the server has of it follows.
  source.addEventListener('gap', ({ data }) => {
    status('open', 'Following all tabs.')
    if (JSON.parse(data).channel === 'board:clicks') total.textContent = '0'
    else for (const cursor of cursors.values()) cursor.remove()
  })
  source.addEventListener('count', ({ data }) => {
    arrived(data)
    total.textContent = JSON.parse(data).count.toLocaleString('en')
  })
  source.addEventListener('cursor', ({ data }) => {
    arrived(data)
    show(JSON.parse(data))
  })
}

add.addEventListener('click', () => fetch('/board/clicks', { method: 'POST' }))

// One request at a time, and then the newest place.
let place, sent, isSending
async function send () {
  if (isSending) return
  isSending = true
  while (place !== sent && source.readyState === EventSource.OPEN) {
    sent = place
    await fetch('/board/cursor', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ tab, ...place })
    }).catch(() => {})
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  isSending = false
}
// #endregion

start()

stop.addEventListener('click', () => {
  if (source.readyState === EventSource.CLOSED) {
    start()
    stop.textContent = 'Stop'
  } else {
    source.close()
    for (const cursor of cursors.values()) cursor.remove()
    stop.textContent = 'Go on'
    status('stopped', 'Stopped.')
  }
})

for (const type of ['pointerdown', 'pointermove']) {
  board.addEventListener(type, ({ clientX, clientY }) => {
    const { left, top, width, height } = board.getBoundingClientRect()
    move((clientX - left) / width, (clientY - top) / height)
  })
}

const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
board.addEventListener('keydown', event => {
  const step = steps[event.key]
  if (!step) return
  event.preventDefault()
  const { x, y } = place ?? { x: 0.5, y: 0.5 }
  move(x + step[0] / 40, y + step[1] / 20)
})

for (const type of ['pointerleave', 'blur']) board.addEventListener(type, () => { place = sent = undefined })

// The server forgets a cursor after five seconds.
setInterval(() => {
  if (place) move(place.x, place.y)
}, 2000)

function move (x, y) {
  const within = number => Math.min(1, Math.max(0, Math.round(number * 1000) / 1000))
  place = { x: within(x), y: within(y) }
  send()
}

function show ({ tab: id, x, y }) {
  const cursor = cursors.get(id) ?? appear(id)
  cursor.style.left = `${x * 100}%`
  cursor.style.top = `${y * 100}%`
  clearTimeout(cursor.timer)
  cursor.timer = setTimeout(() => cursor.remove(), 5000)
  if (!cursor.isConnected) board.append(cursor)
}

function appear (id) {
  const cursor = document.createElement('span')
  cursor.className = 'cursor'
  cursor.textContent = id === tab ? 'you' : id.slice(0, 4)
  cursor.style.setProperty('--hue', parseInt(id.slice(0, 4), 16) % 360)
  cursors.set(id, cursor)
  return cursor
}
