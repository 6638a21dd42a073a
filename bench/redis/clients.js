/**
 * The clients of Redis that people bring, as far as a benchmark needs them.
 */
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)

export const clients = ['ioredis', 'iovalkey', 'redis']

export const versionOf = name => require(`${name}/package.json`).version

/** Resolves with a connected client, and what is done with it. */
export async function connect (name, socket) {
  return await (name === 'redis' ? nodeRedis(socket) : ioredis(name, socket))
}

async function ioredis (name, path) {
  const { Redis } = await import(name)
  const client = new Redis({ path })
  return {
    client,
    send: (...command) => client.call(...command),
    listen: async (topics, listener) => {
      const subscriber = client.duplicate()
      subscriber.on('message', (topic, text) => listener(text))
      await subscriber.subscribe(...topics)
    },
    close: () => client.disconnect()
  }
}

async function nodeRedis (path) {
  const { createClient } = await import('redis')
  const client = createClient({ socket: { path } })
  client.on('error', () => {})
  await client.connect()
  return {
    client,
    send: (...command) => client.sendCommand(command),
    listen: async (topics, listener) => {
      const subscriber = client.duplicate()
      await subscriber.connect()
      await subscriber.subscribe(topics, listener)
    },
    close: () => client.destroy()
  }
}
