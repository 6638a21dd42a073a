import { arrived, megabytes, status } from './live.js'

const now = document.querySelector('#now')
const source = new EventSource('/metrics/live')

source.onopen = () => status('open', 'Listening.')
source.onerror = () => status('failed', 'The connection is lost. Trying again.')
source.onmessage = ({ data }) => {
  const { cpu, rss, open } = JSON.parse(data)
  now.textContent = `CPU ${cpu.toFixed(0)} %, ${megabytes(rss)}, ${open} open ${open === 1 ? 'stream' : 'streams'}`
  arrived(data)
}
