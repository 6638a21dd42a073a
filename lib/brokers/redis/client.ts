/**
 * The clients that users bring: ioredis, iovalkey and redis (node-redis). They differ in how a command is sent, and in how
 * a connection that subscribes comes back; nothing outside of this file knows which one it is.
 */
import { FST_STREAM_INVALID_OPTION, kindOf } from '../../errors.ts'

interface Emitter {
  on: (event: string, listener: (...args: any[]) => void) => unknown
  off: (event: string, listener: (...args: any[]) => void) => unknown
}

/** A client of ioredis 5 or 6, or of iovalkey. */
export interface IoredisClient extends Emitter {
  readonly status: string
  call: (command: string, ...args: any[]) => Promise<unknown>
  duplicate: (...args: any[]) => any
  disconnect: (...args: any[]) => void
  subscribe: (...channels: any[]) => Promise<unknown>
  unsubscribe: (...channels: any[]) => Promise<unknown>
}

/** A client of redis (node-redis) 4, 5 or 6, made by `createClient()`. */
export interface NodeRedisClient extends Emitter {
  readonly isReady: boolean
  sendCommand: (args: any, ...more: any[]) => Promise<any>
  connect: () => Promise<any>
  duplicate: (...args: any[]) => any
  subscribe: (...args: any[]) => Promise<unknown>
  unsubscribe: (...args: any[]) => Promise<unknown>
}

export type RedisClient = IoredisClient | NodeRedisClient

/** A connection that subscribes. */
export interface Link {
  /** Resolves once the server has confirmed it. Topics that are subscribed to already are no harm. */
  subscribe (topics: string[]): Promise<void>
  unsubscribe (topics: string[]): Promise<void>
  /** Nothing is told any more. Closes what was opened here. */
  close (): void
}

/** Told by a link. */
export interface LinkListener {
  /** The connection is ready, perhaps again: what was subscribed to may have been lost meanwhile. */
  up (): void
  message (topic: string, text: string): void
}

/** Throws FST_STREAM_INVALID_OPTION for what is no client of a single server. */
export function checkClient (name: string, client: unknown): asserts client is RedisClient {
  if (!isIoredis(client) && !isNodeRedis(client)) {
    throw new FST_STREAM_INVALID_OPTION(name, 'a client of ioredis, iovalkey or redis, for a single server', kindOf(client))
  }
}

/** Sends one command; rejects with what the client rejects with. */
export function send (client: RedisClient, command: string[]): Promise<unknown> {
  return isIoredis(client) ? client.call(...command as [string]) : client.sendCommand(command)
}

/** True when what is sent goes out, and does not wait in the client. */
export function isReady (client: RedisClient): boolean {
  if (!isIoredis(client)) return client.isReady
  // The first command makes one with `lazyConnect` connect.
  return client.status === 'ready' || client.status === 'wait'
}

/**
 * Tells when a client is ready, perhaps again. Without a listener for errors, a client makes of every lost connection an
 * uncaught exception, or a line on the console. Returns what ends it.
 */
export function watch (client: RedisClient, ready: () => void): () => void {
  return listen(client, { ready, error: noop })
}

/** A link over a client that the user has made. */
export function linkOver (client: RedisClient, listener: LinkListener): Link {
  if (isReady(client)) queueMicrotask(() => { listener.up() })
  return isIoredis(client) ? new IoredisLink(client, listener, false) : new NodeRedisLink(client, listener, false)
}

/** A link of its own, to where the client is connected. It comes back by itself. */
export function openLink (client: RedisClient, listener: LinkListener): Link {
  if (isIoredis(client)) {
    const subscriber = client.duplicate({
      autoResubscribe: false,
      autoResendUnfulfilledCommands: true,
      commandTimeout: undefined,
      enableOfflineQueue: true,
      lazyConnect: false,
      maxRetriesPerRequest: null,
      retryStrategy: backOff
    }) as IoredisClient
    return new IoredisLink(subscriber, listener, true)
  }
  const { socket } = (client as unknown as { options: { socket?: object } }).options
  const subscriber = client.duplicate({
    disableOfflineQueue: false,
    socket: { ...socket, reconnectStrategy: backOff, socketTimeout: undefined }
  }) as NodeRedisClient
  const link = new NodeRedisLink(subscriber, listener, true)
  subscriber.connect().catch(noop)
  return link
}

class IoredisLink implements Link {
  readonly #client: IoredisClient
  readonly #isOwn: boolean
  readonly #unlisten: () => void

  constructor (client: IoredisClient, listener: LinkListener, isOwn: boolean) {
    this.#client = client
    this.#isOwn = isOwn
    this.#unlisten = listen(client, {
      ready: () => { listener.up() },
      message: (topic: string, text: string) => { listener.message(topic, text) },
      error: noop
    })
  }

  async subscribe (topics: string[]): Promise<void> {
    await this.#client.subscribe(...topics)
  }

  async unsubscribe (topics: string[]): Promise<void> {
    await this.#client.unsubscribe(...topics)
  }

  close (): void {
    this.#unlisten()
    if (!this.#isOwn) return
    this.#client.on('error', noop)
    this.#client.disconnect()
  }
}

class NodeRedisLink implements Link {
  readonly #client: NodeRedisClient
  readonly #isOwn: boolean
  readonly #unlisten: () => void
  readonly #told: (text: string, topic: string) => void

  constructor (client: NodeRedisClient, listener: LinkListener, isOwn: boolean) {
    this.#client = client
    this.#isOwn = isOwn
    this.#told = (text, topic) => { listener.message(topic, text) }
    // It has subscribed again to everything before it says so.
    this.#unlisten = listen(client, { ready: () => { listener.up() }, error: noop })
  }

  async subscribe (topics: string[]): Promise<void> {
    await this.#client.subscribe(topics, this.#told)
  }

  async unsubscribe (topics: string[]): Promise<void> {
    await this.#client.unsubscribe(topics, this.#told)
  }

  close (): void {
    this.#unlisten()
    if (!this.#isOwn) return
    this.#client.on('error', noop)
    const { destroy, disconnect } = this.#client as { destroy?: () => void, disconnect?: () => Promise<void> }
    // The first one has come with version 5.
    void (async () => { await (destroy ?? disconnect)?.call(this.#client) })().catch(noop)
  }
}

function listen (client: Emitter, listeners: Record<string, (...args: any[]) => void>): () => void {
  for (const [event, listener] of Object.entries(listeners)) client.on(event, listener)
  return () => {
    for (const [event, listener] of Object.entries(listeners)) client.off(event, listener)
  }
}

/** Milliseconds before the next attempt to connect. */
function backOff (attempts: number): number {
  return Math.min(attempts * 50, 500) * (0.5 + Math.random() / 2)
}

function isIoredis (client: unknown): client is IoredisClient {
  return hasMethods(client, ['call', 'duplicate', 'subscribe', 'on']) && (client as { isCluster?: boolean }).isCluster !== true
}

function isNodeRedis (client: unknown): client is NodeRedisClient {
  return hasMethods(client, ['sendCommand', 'connect', 'duplicate', 'subscribe', 'on']) && !('masters' in client) && !('call' in client)
}

function hasMethods (value: unknown, names: string[]): value is object {
  return typeof value === 'object' && value !== null && names.every(name => typeof (value as Record<string, unknown>)[name] === 'function')
}

function noop (): void {}
