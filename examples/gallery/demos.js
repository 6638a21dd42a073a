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
  }
}
