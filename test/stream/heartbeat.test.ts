import '../fixtures/guard.ts'
import t from 'tap'
import { fakeClock, turn } from '../fixtures/clock.ts'
import { dechunk, open } from '../fixtures/raw.ts'
import { serve } from '../fixtures/server.ts'
import { Heartbeats, type Beating } from '../../lib/stream/heartbeat.ts'
import type { EventStream } from '../../lib/index.ts'

const beat = '2\r\n:\n\r\n'
const beatsIn = (text: string) => dechunk(text.slice(text.indexOf('\r\n\r\n') + 4)).body.match(/^:$/gm)?.length ?? 0

/** A client of a stream that says nothing by itself. */
async function silentStream (t: Test, options: object = {}) {
  let stream!: EventStream
  const server = await serve(t, async (request, reply) => { stream = await reply.sse(options) })
  const clock = fakeClock(t)
  const client = open(t, server.port)
  await client.until('\r\n\r\n')
  return { ...server, clock, client, stream }
}
type Test = Parameters<typeof serve>[0]

t.test('a comment is sent after heartbeat to 1.5 × heartbeat of silence, from the head on', async t => {
  const { clock, client, stream } = await silentStream(t, { heartbeat: 1000 })
  clock.tick(1000)
  stream.send('after 1 × heartbeat')
  await client.until('after 1')
  t.equal(beatsIn(client.received), 0)
  clock.tick(1000)
  stream.send('after 2 ×')
  await client.until('after 2')
  t.equal(beatsIn(client.received), 0, 'every event starts the silence anew')
  clock.tick(1500)
  await client.until(beat)
  clock.tick(1500)
  stream.send('the end')
  await client.until('the end')
  t.equal(beatsIn(client.received), 2)
})

t.test('a heartbeat starts the silence anew: one in each 1 to 1.5 × heartbeat', async t => {
  const { clock, client, stream } = await silentStream(t, { heartbeat: 1000 })
  for (let i = 0; i < 60; i++) {
    clock.tick(250)
    await turn()
  }
  stream.send('15 seconds')
  await client.until('15 seconds')
  t.ok(beatsIn(client.received) >= 10 && beatsIn(client.received) <= 15, `${beatsIn(client.received)} heartbeats`)
})

t.test('a heartbeat comes every 15 seconds unless told otherwise', async t => {
  const { clock, client, stream } = await silentStream(t)
  clock.tick(15_000)
  stream.comment('early')
  await client.until('early')
  t.equal(beatsIn(client.received), 0)
  clock.tick(22_500)
  await client.until(beat)
})

t.test('heartbeat: 0 sends none', async t => {
  const { clock, client, stream } = await silentStream(t, { heartbeat: 0 })
  clock.tick(86_400_000)
  stream.send('a day later')
  await client.until('a day later')
  t.equal(beatsIn(client.received), 0)
})

t.test('heartbeat: 0 sends none beside streams that have heartbeats', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (request, reply) => {
    const isOff = request.url === '/?off'
    const opened = await reply.sse({ heartbeat: isOff ? 0 : 1000 })
    if (isOff) stream = opened
  })
  const clock = fakeClock(t)
  const [off, on] = [open(t, port, { path: '/?off' }), open(t, port)]
  await Promise.all([off.until('\r\n\r\n'), on.until('\r\n\r\n')])
  clock.tick(1500)
  await on.until(beat)
  stream.send('later')
  await off.until('later')
  t.equal(beatsIn(off.received), 0)
})

t.test('no heartbeat while bytes wait for the client', async t => {
  let stream!: EventStream
  const { port } = await serve(t, async (request, reply) => { stream = await reply.sse({ heartbeat: 1000, writeTimeout: 0 }) })
  const clock = fakeClock(t)
  const client = open(t, port)
  await client.until('\r\n\r\n')
  client.socket.pause()
  const sent = stream.send('x'.repeat(20 << 20))
  await turn(3)
  t.not(stream.bufferedBytes, 0)
  for (let i = 0; i < 20; i++) {
    clock.tick(500)
    await turn()
  }
  client.socket.resume()
  t.equal(await sent, true)
  stream.send('done')
  await client.until('done')
  t.equal(beatsIn(client.received), 0)
})

t.test('a stream that has ended gets no heartbeat, and the last one takes the timer along', async t => {
  const { clock, client, stream } = await silentStream(t, { heartbeat: 1000, writeTimeout: 0 })
  t.equal(clock.countTimers(), 1)
  stream.close()
  t.equal(clock.countTimers(), 0)
  clock.tick(10_000)
  await client.until('0\r\n\r\n')
  t.equal(beatsIn(client.received), 0)
})

t.test('one timer serves all streams', async t => {
  let opened = 0
  const { port } = await serve(t, async (request, reply) => {
    await reply.sse({ heartbeat: 1000, writeTimeout: 0 })
    opened++
  })
  const clock = fakeClock(t)
  const clients = Array.from({ length: 20 }, () => open(t, port))
  await Promise.all(clients.map(client => client.until('\r\n\r\n')))
  t.equal(opened, 20)
  t.equal(clock.countTimers(), 1)
  clock.tick(1250)
  await Promise.all(clients.map(client => client.until(beat)))
  t.equal(clock.countTimers(), 1)
})

class Silent implements Beating {
  beatAt = 0
  lastWrite = performance.now()
  beats: number[] = []
  readonly heartbeat: number
  isBlocked = false
  constructor (heartbeat: number) { this.heartbeat = heartbeat }
  beat () {
    if (this.isBlocked) return
    this.beats.push(performance.now() - this.lastWrite)
    this.lastWrite = performance.now()
  }
}

t.test('10,000 streams that are due together beat in slices, and the loop turns in between', async t => {
  const clock = fakeClock(t)
  const heartbeats = new Heartbeats()
  const streams = Array.from({ length: 10_000 }, () => new Silent(1000))
  for (const stream of streams) heartbeats.add(stream)
  t.equal(heartbeats.size, 10_000)
  t.equal(clock.countTimers(), 1)
  let most = 0
  let beaten = 0
  while (beaten < 10_000) {
    clock.next()
    const now = streams.reduce((sum, { beats }) => sum + beats.length, 0)
    most = Math.max(most, now - beaten)
    beaten = now
  }
  t.ok(most <= 256, `${most} in one turn`)
  t.ok(clock.now <= 1500)
  t.ok(streams.every(({ beats: [silence] }) => silence >= 1000 && silence <= 1500))
})

t.test('streams with heartbeats of different lengths each keep their own', async t => {
  const clock = fakeClock(t)
  const heartbeats = new Heartbeats()
  const streams = [new Silent(10_000), new Silent(70), new Silent(1000)]
  for (const stream of streams) heartbeats.add(stream)
  clock.tick(100_000)
  for (const { heartbeat, beats } of streams) {
    t.ok(beats.every(silence => silence >= heartbeat && silence <= 1.5 * heartbeat), `${heartbeat}`)
    t.ok(beats.length >= 100_000 / heartbeat / 1.5 - 1)
  }
})

t.test('a stream that cannot beat when it is due is asked again soon, and costs one look each time', async t => {
  const clock = fakeClock(t)
  const heartbeats = new Heartbeats()
  const stream = new Silent(1000)
  let looks = 0
  const beat = stream.beat.bind(stream)
  stream.beat = () => { looks++; beat() }
  stream.isBlocked = true
  heartbeats.add(stream)
  clock.tick(10_000)
  t.ok(looks > 0 && looks <= 40, `${looks} looks`)
  stream.isBlocked = false
  clock.tick(500)
  t.equal(stream.beats.length, 1)
})

t.test('streams that end inside a heartbeat, or were never added, are forgotten', async t => {
  const clock = fakeClock(t)
  const heartbeats = new Heartbeats()
  const one = new Silent(1000)
  const other = new Silent(1000)
  one.beat = () => { heartbeats.remove(one) }
  heartbeats.remove(one)
  heartbeats.add(one)
  clock.tick(1500)
  t.equal(heartbeats.size, 0)
  t.equal(clock.countTimers(), 0)
  heartbeats.add(one)
  heartbeats.add(other)
  clock.tick(1500)
  t.equal(heartbeats.size, 1)
  t.ok(other.beats.length > 0)
  heartbeats.remove(other)
  t.equal(heartbeats.size, 0)
  t.equal(clock.countTimers(), 0)
})
