import '../fixtures/guard.ts'
import fc from 'fast-check'
import t from 'tap'
import { ChunkQueue } from '../../lib/stream/chunk-queue.ts'

const bytesOf = (chunk: string | Uint8Array): Buffer => typeof chunk === 'string' ? Buffer.from(chunk) : Buffer.from(chunk)

function push (queue: ChunkQueue, chunk: string | Uint8Array): void {
  queue.push(chunk, Buffer.byteLength(chunk))
}

t.test('what goes in comes out, byte for byte and in order, in slices', async t => {
  const chunk = fc.oneof(
    fc.string({ unit: 'grapheme', maxLength: 20 }),
    fc.uint8Array({ maxLength: 20 }),
    fc.nat(40_000).map(length => '\u20ac'.repeat(length)),
    fc.nat(100_000).map(length => new Uint8Array(length).fill(length)))
  const step = fc.oneof({ weight: 4, arbitrary: chunk.map(chunk => ({ chunk })) }, { weight: 2, arbitrary: fc.constant('shift' as const) }, fc.constant('unshift' as const))
  fc.assert(fc.property(fc.constantFrom(undefined, 16 * 1024), fc.array(step, { maxLength: 60 }), (largest, steps) => {
    const queue = new ChunkQueue(largest)
    let expected = Buffer.alloc(0)
    const check = (): void => {
      const slice = bytesOf(queue.shift())
      if (slice.length === 0 || slice.length > (largest ?? 64 * 1024)) throw new Error(`a slice of ${slice.length} bytes`)
      if (!slice.equals(expected.subarray(0, slice.length))) throw new Error('other bytes')
      expected = expected.subarray(slice.length)
    }
    for (const step of steps) {
      if (step === 'unshift') {
        queue.unshift('first')
        expected = Buffer.concat([Buffer.from('first'), expected])
      } else if (step !== 'shift') {
        push(queue, step.chunk)
        expected = Buffer.concat([expected, bytesOf(step.chunk)])
      } else if (expected.length > 0) {
        check()
      }
      if (queue.bytes !== expected.length || queue.isShort !== (expected.length < 64 * 1024)) throw new Error(`${queue.bytes} bytes instead of ${expected.length}`)
    }
    while (queue.bytes > 0) check()
    if (expected.length > 0) throw new Error('bytes are left')
  }))
})

t.test('bytes that somebody still holds are never written over', async t => {
  const queue = new ChunkQueue()
  const mine = Buffer.from('mine')
  push(queue, mine)
  push(queue, Buffer.from(' and yours'))
  const out = queue.shift()
  push(queue, Buffer.from('other'))
  push(queue, Buffer.from(' bytes'))
  t.equal(String(mine), 'mine')
  t.equal(String(out), 'mine and yours')
})

t.test('text and bytes in turn are a few slices, however small they are', async t => {
  const queue = new ChunkQueue()
  for (let i = 0; i < 100_000; i++) {
    push(queue, 'a')
    push(queue, Buffer.from('b'))
  }
  t.equal(queue.bytes, 200_000)
  let slices = 0
  for (; queue.bytes > 0; slices++) queue.shift()
  t.ok(slices <= 15, `${slices} slices`)
})

t.test('two small chunks hold no large block', async t => {
  const queue = new ChunkQueue()
  push(queue, Buffer.from('a'))
  push(queue, Buffer.from('b'))
  t.ok((queue.shift() as Buffer).buffer.byteLength < 64)
})

t.test('is empty once it was cleared', async t => {
  const queue = new ChunkQueue()
  push(queue, 'a')
  queue.clear()
  t.equal(queue.bytes, 0)
  push(queue, 'b')
  t.equal(queue.shift(), 'b')
})
