/**
 * As much Markdown as a README needs, also while it is still arriving. Builds nodes, never HTML text.
 */
export function markdown (text) {
  const page = document.createDocumentFragment()
  for (const [block, , code, heading, title] of text.matchAll(/^```(.*)\n([^]*?)(?:^```$|$(?![^]))|^(#{1,6}) (.*)|(?:^(?!```|#{1,6} ).*\S.*\n?)+/gm)) {
    if (code !== undefined) page.append(node('pre', node('code', code)))
    else if (heading) page.append(node('h3', ...inline(title)))
    else if (/^\|.*\|/.test(block)) page.append(table(block))
    else if (/^([-*]|\d+\.) /.test(block)) page.append(list(block))
    else page.append(node('p', ...inline(block)))
  }
  return page
}

function table (block) {
  const rows = block.trim().split('\n').filter(row => !/^[|:\s-]+$/.test(row))
  return node('div', node('table', ...rows.map((row, n) => node('tr',
    ...row.replace(/^\||\|$/g, '').split(/(?<!\\)\|/).map(cell => node(n ? 'td' : 'th', ...inline(cell.trim().replaceAll('\\|', '|'))))))))
}

function list (block) {
  const items = block.trim().split(/\n(?=(?:[-*]|\d+\.) )/)
  return node(/^\d/.test(block) ? 'ol' : 'ul', ...items.map(item => node('li', ...inline(item.replace(/^([-*]|\d+\.) /, '')))))
}

function inline (text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)\s]+\))/).map(part => {
    if (/^`.+`$/s.test(part)) return node('code', part.slice(1, -1))
    if (/^\*\*.+\*\*$/s.test(part)) return node('strong', ...inline(part.slice(2, -2)))
    const [, label, href] = part.match(/^\[(.+)\]\((https?:.+)\)$/s) ?? []
    if (href) return Object.assign(node('a', ...inline(label)), { href })
    return part.replace(/^\[(.+)\]\(.+\)$/s, '$1')
  })
}

function node (name, ...children) {
  const element = document.createElement(name)
  element.append(...children)
  return element
}
