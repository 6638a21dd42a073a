import '../fixtures/guard.ts'
import t from 'tap'
import { formatPosition, joinPositions, parsePositions, tagOf } from '../../lib/channel/position.ts'

t.test('a tag is six characters of the hash of the name, the same in every process', async t => {
  t.equal(tagOf('news'), 'Gfug6Z')
  t.equal(tagOf('sport'), '7EUHhu')
  t.match(tagOf('雪'), /^[0-9A-Za-z_-]{6}$/)
})

t.test('a position is the id and the tag; several are joined by commas', async t => {
  t.equal(formatPosition('1-a', 'Gfug6Z'), '1-a.Gfug6Z')
  t.equal(joinPositions(['1-a.Gfug6Z', '2-b.7EUHhu']), '1-a.Gfug6Z,2-b.7EUHhu')
  t.equal(joinPositions([]), '')
})

t.test('positions are found by their tags, in any order', async t => {
  t.same([...parsePositions('1-a.Gfug6Z')], [['Gfug6Z', '1-a']])
  t.same([...parsePositions('2-b.7EUHhu,1-a.Gfug6Z')], [['7EUHhu', '2-b'], ['Gfug6Z', '1-a']])
  t.same([...parsePositions(`${'x'.repeat(56)}.______`)], [['______', 'x'.repeat(56)]])
})

t.test('what is ill-formed anywhere, or names a channel twice, is no position at all', async t => {
  for (const text of [
    '', '.', ',', '1', '1.', '.Gfug6Z', '1.Gfug6', '1.Gfug6Zx', '1.Gfug6!', '1_.Gfug6Z', ' 1.Gfug6Z', '1.Gfug6Z ', '1.Gfug6Z\n', '1\0.Gfug6Z', '1.2.Gfug6Z',
    `${'x'.repeat(57)}.Gfug6Z`, 'é.Gfug6Z'
  ]) {
    t.same([...parsePositions(text)], [], text)
    t.same([...parsePositions(`${text},2-b.7EUHhu`)], [], text)
    t.same([...parsePositions(`2-b.7EUHhu,${text}`)], [], text)
  }
  t.same([...parsePositions('1-a.Gfug6Z,2-b.7EUHhu,1-a.Gfug6Z')], [])
})

t.test('the words that brokers are asked with are no positions', async t => {
  t.same([...parsePositions('live.Gfug6Z,earliest.7EUHhu')], [])
  t.same([...parsePositions('Live.Gfug6Z')], [['Gfug6Z', 'Live']])
})
