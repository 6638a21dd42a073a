import { arrived, status } from './live.js'

const [stop, speed, delay, leftOut, prices] = ['stop', 'speed', 'delay', 'left-out', 'prices'].map(id => document.getElementById(id))
const number = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })
const rows = new Map()
let seen = 0
let missed = 0
let late = 0

// #region
let source
let last
function start () {
  last = undefined
  source = new EventSource('/ticker/prices')
  source.onerror = () => status('failed', 'The connection is lost. Trying again.')
  // Where this tab goes on from, or that it cannot: either way, the prices come.
  for (const type of ['position', 'gap']) {
    source.addEventListener(type, () => status('open', 'Prices are coming.'))
  }
  source.onmessage = ({ data }) => {
    const change = JSON.parse(data)
    // Another process counts anew.
    if (last?.by === change.by) missed += change.n - last.n - 1
    last = change
    late = Date.now() - change.time
    later(change, data.length)
  }
}

// There are more events than a screen has pictures: the newest of each symbol is shown.
let newest = new Map()
let count = 0
let bytes = 0
function later (change, length) {
  if (count === 0) requestAnimationFrame(draw)
  newest.set(change.symbol, change)
  count++
  seen++
  bytes += length
}

function draw () {
  for (const change of newest.values()) show(change)
  arrived({ length: bytes }, count)
  newest = new Map()
  count = bytes = 0
}
// #endregion

start()

stop.addEventListener('click', () => {
  if (source.readyState === EventSource.CLOSED) {
    start()
    stop.textContent = 'Stop'
  } else {
    source.close()
    stop.textContent = 'Go on'
    status('stopped', 'Stopped. Without another tab, the server makes no prices now.')
  }
})

let since = performance.now()
setInterval(() => {
  const now = performance.now()
  speed.textContent = Math.round(seen / (now - since) * 1000).toLocaleString('en')
  delay.textContent = seen ? `${Math.max(0, late)} ms` : '–'
  leftOut.textContent = missed.toLocaleString('en')
  seen = 0
  since = now
}, 1000)

function show ({ symbol, price }) {
  if (!rows.has(symbol)) appear(symbol, price)
  const row = rows.get(symbol)
  const share = (price / row.first - 1) * 100
  row.price.textContent = number.format(price)
  row.change.textContent = `${share < 0 ? '▼' : '▲'} ${number.format(Math.abs(share))} %`
  row.change.className = share < 0 ? 'down' : 'up'
}

/** A row more, in the order of the alphabet. */
function appear (symbol, first) {
  const row = document.createElement('tr')
  const cells = ['th', 'td', 'td'].map(name => document.createElement(name))
  cells[0].scope = 'row'
  cells[0].textContent = symbol
  row.append(...cells)
  prices.insertBefore(row, [...prices.rows].find(({ cells }) => cells[0].textContent > symbol) ?? null)
  rows.set(symbol, { first, price: cells[1], change: cells[2] })
}
