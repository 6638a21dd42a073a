/**
 * The HTML around a demo: the live stream on one side, the code that makes it on the other.
 */
import { about } from './demos.js'

const icon = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='5' fill='%23102a23'/%3E%3Cpath d='M3 21h7l2-12 4 17 3-9 2 4h8' fill='none' stroke='%237df0a8' stroke-width='2.5' stroke-linejoin='round'/%3E%3C/svg%3E"

/** The page of one demo. `body` is trusted HTML; `server` and `browser` are the files whose marked regions are shown. */
export function demoPage (names, name, { body, server, browser }) {
  const { title, text } = about[name]
  return shell(names, name, title, `
  <div class="intro">
    <h1>${escape(title)}</h1>
    <p>${escape(text)}</p>
  </div>
  <div class="bench">
    <section class="live" id="live" aria-labelledby="live-title" data-state="idle">
      <div class="readout">
        <h2 id="live-title">Live</h2>
        <p id="status" role="status">Ready.</p>
        <p class="counts"><span id="count">0</span> <span id="unit">events</span>, <span id="bytes">0 B</span></p>
      </div>
      <canvas id="tape" class="tape" aria-hidden="true"></canvas>
      <div class="demo">
${body}
      </div>
    </section>
    <section class="code" aria-labelledby="code-title">
      <h2 id="code-title">The server</h2>
      ${listing(`examples/${name}.js`, server)}
      <details>
        <summary>The browser’s side</summary>
        ${listing(`examples/gallery/public/${name}.js`, browser)}
      </details>
    </section>
  </div>
  <script type="module" src="/assets/${name}.js"></script>`)
}

/** The list of demos, beside the code that they all start with. */
export function indexPage (names, server) {
  return shell(names, undefined, 'Demos', `
  <div class="intro">
    <h1>Replies that keep going</h1>
    <p>Live demos of <code>fastify-streaming</code>, all from one Fastify app, on real data but for the prices of the ticker. Each page shows the stream and the lines of server code that make it.</p>
  </div>
  <section class="live hero" id="live" aria-label="CPU of this process, live" data-state="idle">
    <div class="readout"><h2>This process</h2><p id="status" role="status">Connecting.</p><p class="counts" id="now"></p></div>
    <canvas id="tape" class="tape" aria-hidden="true"></canvas>
  </section>
  <div class="bench">
    <ul class="demos">${names.map(name => `
      <li><a href="/${name}"><strong>${escape(about[name].title)}</strong> <code>${escape(about[name].call)}</code></a>
        <p>${escape(about[name].text)}</p></li>`).join('')}
    </ul>
    <section class="code" aria-labelledby="code-title">
      <h2 id="code-title">How they start</h2>
      ${listing('examples/gallery/app.js', server)}
      <p>Each demo also runs alone, for example <code>node examples/chat.js</code>.</p>
      <p>The <a href="/documentation">documentation</a> of their routes is made from their schemas. That of <code>/command/output</code> has its events.</p>
    </section>
  </div>
  <script type="module" src="/assets/index.js"></script>`)
}

/** The text between `// #region` and `// #endregion`, every region of the file, without the indentation they share. */
export function regions (source) {
  return [...source.matchAll(/^[ \t]*\/\/ #region\n([^]*?)^[ \t]*\/\/ #endregion/gm)].map(([, text]) => {
    const indent = Math.min(...text.match(/^[ \t]*(?=\S)/gm).map(space => space.length))
    return text.replace(new RegExp(`^[ \\t]{${indent}}`, 'gm'), '').trimEnd()
  }).join('\n\n')
}

const token = /(?<comment>\/\/.*|\/\*[^]*?\*\/)|(?<string>'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\b(?<keyword>async|await|break|catch|class|const|default|do|else|export|extends|finally|for|function|if|import|in|let|new|of|return|static|super|this|throw|try|while|yield)\b|\b(?<number>\d[\d_.]*)\b/g

function listing (file, source) {
  const code = regions(source.replaceAll('\r\n', '\n'))
  let html = ''
  let end = 0
  for (const match of code.matchAll(token)) {
    const kind = Object.keys(match.groups).find(group => match.groups[group] !== undefined)
    html += `${escape(code.slice(end, match.index))}<span class="${kind}">${escape(match[0])}</span>`
    end = match.index + match[0].length
  }
  return `<figure class="listing"><figcaption>${file}</figcaption><pre tabindex="0" role="region" aria-label="Code of ${file}"><code>${html}${escape(code.slice(end))}</code></pre></figure>`
}

function escape (text) {
  return text.replace(/[&<>"']/g, character => `&#${character.charCodeAt(0)};`)
}

function shell (names, current, title, main) {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escape(title)} · fastify-streaming</title>
<link rel="icon" href="${icon}">
<link rel="stylesheet" href="/assets/style.css">
</head>
<body>
<a class="skip" href="#main">Skip to the demo</a>
<header class="top">
  <a class="brand" href="/"${current ? '' : ' aria-current="page"'}>fastify-streaming</a>
  <nav aria-label="Demos">${names.map(name => `<a href="/${name}"${name === current ? ' aria-current="page"' : ''}>${escape(about[name].title)}</a>`).join(' ')}</nav>
</header>
<main id="main">${main}
</main>
</body>
</html>
`
}
