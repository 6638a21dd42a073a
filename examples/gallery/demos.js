/**
 * What the pages say about each demo, in the order of the index.
 */
export const about = {
  chat: {
    title: 'Chat',
    call: 'reply.sse(source, { reconnect: false })',
    text: 'Ask about this package. The best-matching section of its README is typed out, one character an event. An answer that has ended does not start again.'
  },
  metrics: {
    title: 'Metrics',
    call: 'reply.sse(asyncGenerator)',
    text: 'What this very process is doing, measured every second: CPU, memory, event-loop delay and open streams.'
  },
  primes: {
    title: 'Primes',
    call: 'reply.streamWriter(callback)',
    text: 'One prime a round, as plain text. The callback is called again and again until it says stop, or until you leave.'
  },
  export: {
    title: 'Export',
    call: 'writer.json(row)',
    text: '100,000 rows of NDJSON. The server makes a page of rows when the browser wants more, so its memory does not grow with the file.'
  },
  'log-tail': {
    title: 'Log tail',
    call: 'log.on(\'line\', stream.send)',
    text: 'The request log of this app, line by line as it is written. Many can watch; one who reads too slowly is cut off, and delays nobody.'
  },
  command: {
    title: 'Command',
    call: 'reply.sse((stream, signal) => …)',
    text: 'The output of a child process. Close the tab and the process is gone too.'
  },
  upload: {
    title: 'Upload',
    call: 'const stream = await reply.sse()',
    text: 'Send a file. What the server has received, and its SHA-256, come back as events while the upload runs.'
  },
  board: {
    title: 'Live board',
    call: 'reply.sse([clicks, cursors], { lag: \'latest\' })',
    text: 'A counter and the cursors of all open tabs. A tab that reads too slowly is given the newest place of each cursor, not all of them.'
  },
  room: {
    title: 'Chat room',
    call: 'reply.sse(channel, { replay: \'all\' })',
    text: 'Whoever joins is given what was said. Whoever was cut off comes back to what they have missed, each message once and in order, or is told that some are gone.'
  },
  ticker: {
    title: 'Ticker',
    call: 'channel.publish(event, { key })',
    text: '500 events a second to every tab, and none while nobody watches. The prices are made up; how fast they come is not.'
  }
}
