/**
 * A command that works for a while: for each package of a node_modules folder it prints size, name, version, files and a checksum.
 * `node weigh.js FOLDER [MILLISECONDS]` waits so long after each line.
 */
import { createHash } from 'node:crypto'
import { opendir, readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'

const [folder, pace = '0'] = process.argv.slice(2)
let packages = 0
let bytes = 0

for await (const name of names(folder)) {
  const found = await weigh(path.join(folder, name))
  packages++
  bytes += found.bytes
  console.log(`${kilobytes(found.bytes)}  ${name} ${found.version}  ${found.files} files  ${found.sha256.slice(0, 12)}`)
  await setTimeout(Number(pace))
}
console.log(`${kilobytes(bytes)} in ${packages} packages`)

async function * names (folder) {
  for (const entry of (await readdir(folder, { withFileTypes: true })).sort((a, b) => a.name < b.name ? -1 : 1)) {
    if (!entry.isDirectory() || entry.name.startsWith('.')) continue
    if (!entry.name.startsWith('@')) yield entry.name
    else for (const name of (await readdir(path.join(folder, entry.name))).sort()) yield `${entry.name}/${name}`
  }
}

async function weigh (folder) {
  const { version = '' } = JSON.parse(await readFile(path.join(folder, 'package.json'), 'utf8'))
  const hash = createHash('sha256')
  let files = 0
  let bytes = 0
  for await (const entry of await opendir(folder, { recursive: true })) {
    if (!entry.isFile()) continue
    const content = await readFile(path.join(entry.parentPath ?? entry.path, entry.name))
    hash.update(content)
    files++
    bytes += content.length
  }
  return { version, files, bytes, sha256: hash.digest('hex') }
}

function kilobytes (bytes) {
  return `${Math.ceil(bytes / 1000).toLocaleString('en').padStart(7)} kB`
}
