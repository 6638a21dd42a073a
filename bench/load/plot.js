/**
 * Draws what bench/scaling.js has measured, as SVG in colours that can be read on white and on black.
 */
const lines = [
  { library: 'fastify-streaming', name: 'fastify-streaming', colour: '#3b82f6' },
  { library: 'raw', name: 'plain node:http', colour: '#d97706' }
]
const grey = '#808890'
const panel = { width: 340, height: 210, top: 62, gap: 70, left: 46 }

/** Two panels: CPU per delivery and heap per subscriber. */
export function plotOf ({ sizes, figures }) {
  const panels = [
    { title: 'Server CPU per delivery', key: 'cpu', unit: 'µs' },
    // RSS of 100 subscribers is no more than pages that come and go.
    { title: 'Heap per subscriber', key: 'heap', unit: 'KiB' }
  ]
  const width = panel.left + 2 * panel.width + panel.gap + 30
  const height = panel.top + panel.height + 50
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">
<title>What a delivery and a subscriber cost with more and more subscribers</title>
${panels.map(({ title, key, unit }, i) => `<g transform="translate(${panel.left + i * (panel.width + panel.gap)} ${panel.top})">
${panelOf({ title, unit, sizes, values: lines.map(({ library }) => figures[library][key]) })}
</g>`).join('\n')}
</svg>
`
}

function panelOf ({ title, unit, sizes, values }) {
  const highest = Math.max(...values.flat())
  const step = highest > 12 ? 5 : 2
  // Room for the label of the highest point.
  const top = (Math.floor(highest * 1.1 / step) + 1) * step
  const x = size => round(20 + (panel.width - 40) * Math.log(size / sizes[0]) / Math.log(sizes.at(-1) / sizes[0]))
  const y = value => round(panel.height * (1 - value / top))
  const ticks = Array.from({ length: top / step + 1 }, (_, i) => i * step)
  return [
    text(0, -44, `${title}, ${unit}`, 'font-size="14" font-weight="600"'),
    ...lines.flatMap(({ name, colour }, i) => [
      `<circle cx="4" cy="${-28 + 16 * i}" r="4" fill="${colour}"/>`,
      text(14, -24 + 16 * i, name, '', colour)
    ]),
    ...ticks.flatMap(tick => [
      `<path d="M0 ${y(tick)}H${panel.width}" stroke="${grey}" stroke-opacity="${tick === 0 ? 1 : 0.3}"/>`,
      text(-8, y(tick) + 4, String(tick), 'text-anchor="end"')
    ]),
    ...sizes.map(size => text(x(size), panel.height + 18, size.toLocaleString('en-US', { notation: 'compact', maximumFractionDigits: 1 }), 'text-anchor="middle"')),
    text(panel.width / 2, panel.height + 38, 'subscribers', 'text-anchor="middle"'),
    ...lines.flatMap(({ colour }, i) => [
      `<polyline points="${sizes.map((size, k) => `${x(size)},${y(values[i][k])}`).join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      ...sizes.flatMap((size, k) => {
        const isAbove = i === 0 ? values[0][k] >= values[1][k] : values[1][k] > values[0][k]
        return [
          `<circle cx="${x(size)}" cy="${y(values[i][k])}" r="3" fill="${colour}"/>`,
          text(x(size), y(values[i][k]) + (isAbove ? -8 : 18), values[i][k].toPrecision(3), 'text-anchor="middle"', colour)
        ]
      })
    ])
  ].join('\n')
}

function text (x, y, content, attributes = '', colour = grey) {
  return `<text x="${x}" y="${y}" fill="${colour}"${attributes === '' ? '' : ` ${attributes}`}>${content}</text>`
}

function round (value) {
  return Math.round(value * 10) / 10
}
