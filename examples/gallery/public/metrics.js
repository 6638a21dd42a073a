import Plot from './uplot/uPlot.esm.js'
import { arrived, megabytes, status, withColours } from './live.js'

const percent = value => `${value.toFixed(0)} %`
const milliseconds = value => `${value.toFixed(value < 10 ? 1 : 0)} ms`
const charts = [
  { title: 'CPU', format: percent, top: 100, series: { 'of one core': sample => sample.cpu } },
  { title: 'Memory', format: megabytes, top: 1e8, series: { resident: sample => sample.rss, heap: sample => sample.heap } },
  { title: 'Event-loop delay', format: milliseconds, top: 20, series: { longest: sample => sample.delay.max, mean: sample => sample.delay.mean } },
  { title: 'Open streams', format: String, top: 4, series: { now: sample => sample.open } }
]
const seconds = 120
const times = []

const link = document.createElement('link')
link.rel = 'stylesheet'
link.href = '/assets/uplot/uPlot.min.css'
document.head.append(link)

for (const chart of charts) {
  chart.values = Object.keys(chart.series).map(() => [])
  chart.figure = document.createElement('figure')
  const caption = document.createElement('figcaption')
  caption.append(Object.assign(document.createElement('strong'), { textContent: chart.title }))
  chart.outputs = Object.keys(chart.series).map(name => {
    const key = document.createElement('span')
    const output = document.createElement('b')
    key.append(output, ` ${name}`)
    caption.append(key)
    return output
  })
  chart.box = document.createElement('div')
  chart.figure.append(caption, chart.box)
  document.querySelector('#charts').append(chart.figure)
}

withColours(colour => {
  for (const chart of charts) {
    chart.plot?.destroy()
    const axis = { stroke: colour('soft'), grid: { stroke: colour('grid'), width: 1 }, ticks: { show: false }, font: '11px ui-monospace, monospace' }
    chart.plot = new Plot({
      ...size(chart),
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 8, 0, 0],
      scales: { y: { range: (plot, low, high) => [0, Math.max(chart.top, (high ?? 0) * 1.1)] }, x: { range: () => window_() } },
      axes: [{ ...axis, size: 24, space: 90, values: (plot, ticks) => ticks.map(tick => clock(tick)) }, { ...axis, size: 60, values: (plot, ticks) => ticks.map(chart.format) }],
      series: [{}, ...Object.keys(chart.series).map((name, n) => ({ stroke: colour(n ? 'pen-2' : 'pen'), width: 1.75, points: { show: false } }))]
    }, [times, ...chart.values], chart.box)
  }
})

new ResizeObserver(() => { for (const chart of charts) chart.plot.setSize(size(chart)) }).observe(document.querySelector('#charts'))

// #region
let source
function start () {
  source = new EventSource('/metrics/live')
  source.onopen = () => status('open', 'Measuring, once a second.')
  source.onerror = () => status('failed', 'The connection is lost. Trying again.')
  source.onmessage = ({ data }) => {
    arrived(data)
    draw(JSON.parse(data))
  }
}
// #endregion

const stop = document.querySelector('#stop')
stop.addEventListener('click', () => {
  if (source.readyState === EventSource.CLOSED) {
    start()
    stop.textContent = 'Stop'
  } else {
    source.close()
    stop.textContent = 'Go on'
    status('stopped', 'Stopped. Nothing is measured now.')
  }
})

document.querySelector('#block').addEventListener('click', () => fetch('/metrics/block', { method: 'POST' }))

// Two, because a browser opens no more than six connections to one HTTP/1.1 server.
let others = []
const more = document.querySelector('#more')
more.addEventListener('click', () => {
  for (const other of others) other.close()
  others = others.length ? [] : [1, 2].map(() => new EventSource('/metrics/live'))
  more.textContent = others.length ? 'Close those two' : 'Two more streams'
  more.setAttribute('aria-pressed', String(others.length > 0))
})

start()

function draw (sample) {
  times.push(Date.now() / 1000)
  if (times.length > seconds) times.shift()
  for (const { format, outputs, plot, series, values } of charts) {
    Object.values(series).forEach((read, n) => {
      const value = read(sample)
      values[n].push(value)
      if (values[n].length > seconds) values[n].shift()
      outputs[n].textContent = value === null ? '–' : format(value)
    })
    plot.setData([times, ...values])
  }
}

function window_ () {
  const end = times.at(-1) ?? Date.now() / 1000
  return [end - seconds, end]
}

function clock (time) {
  return new Date(time * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false })
}

function size ({ box }) {
  return { width: box.clientWidth, height: 140 }
}
