import '../fixtures/guard.ts'
import t from 'tap'
import { runModel } from '../fixtures/channel-model.ts'

const first = Number(process.env.MODEL_FIRST_SEED ?? 1)
const count = Number(process.env.MODEL_SEEDS ?? 200)

t.test(`what clients see is what was published, in order, once, and without a hole that they are not told of (seeds ${first} to ${first + count - 1})`, async t => {
  const seeds = Array.from({ length: count }, (_, i) => first + i)
  const total = { published: 0, delivered: 0, gaps: 0, resumes: 0 }
  const failures: string[] = []
  const run = async () => {
    for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
      try {
        const result = await runModel(seed)
        for (const key of Object.keys(total) as Array<keyof typeof total>) total[key] += result[key]
      } catch (error) {
        failures.push((error as Error).message)
      }
    }
  }
  await Promise.all(Array.from({ length: 8 }, run))
  t.strictSame(failures, [])
  t.comment(JSON.stringify(total))
  t.ok(total.delivered > 10 * count)
  t.ok(total.gaps > 0)
  t.ok(total.resumes > count)
})
