/**
 * The gallery: every demo in one app. `npm start`
 */
import { buildApp, isMain, listen } from './gallery/app.js'
import board from './board.js'
import chat from './chat.js'
import command from './command.js'
import exportRows from './export.js'
import logTail, { logInto } from './log-tail.js'
import metrics from './metrics.js'
import primes from './primes.js'
import room from './room.js'
import ticker from './ticker.js'
import upload from './upload.js'

const demos = { chat, metrics, primes, export: exportRows, 'log-tail': logTail, command, upload, board, room, ticker }

/**
 * Builds the app without listening. `options[name]` are a demo's options, so `{ chat: { pace: 0 } }` types as fast as it can;
 * `plugin` are those of the plugin, such as its broker.
 * Log lines go to the log tail, and to `options.out` (a stream; nowhere by default).
 */
export function buildGallery ({ out, ...options } = {}) {
  return buildApp(demos, { ...logInto(out), ...options })
}

if (isMain(import.meta.url)) await listen(await buildGallery({ out: process.stdout }))
