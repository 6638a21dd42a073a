/**
 * What runs inside Redis, where nothing comes in between: appending to a log, and reading it back.
 *
 * A channel has two keys: `{prefix:name}:s`, a stream of its events, and `{prefix:name}:m`, a hash with its head, the bytes
 * of its events and its history. An id is `<milliseconds>-<number>-<suffix>`: the first two are those of the stream, the
 * suffix is new with each call, because a stream that was deleted gives the same ones again. An entry has the id that
 * the log had just before (`p`), its own suffix (`x`) and its data (`d`).
 */
import { createHash } from 'node:crypto'
import { defaultHistory } from '../broker.ts'

export interface Script {
  readonly text: string
  readonly sha: string
}

const log = `
local stream, meta = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function numbers (id)
  local ms, number = string.match(id, '^(%d+)-(%d+)')
  return tonumber(ms), tonumber(number)
end

-- The id of an entry in the stream. A number that is joined as it is has 14 digits at most.
local function place (ms, number)
  return string.format('%.0f-%.0f', ms, number)
end

local function nameOf (entry)
  return entry[1] .. '-' .. entry[2][4]
end

local fields = redis.call('HMGET', meta, 'head', 'size', 'events', 'bytes', 'age')
local head, size = fields[1], tonumber(fields[2] or 0)
local events = tonumber(fields[3] or ${defaultHistory.events})
local bytes = tonumber(fields[4] or ${defaultHistory.bytes})
local age = tonumber(fields[5] or ${defaultHistory.age})
local length = redis.call('XLEN', stream)

local function open (suffix)
  if length == 0 then
    size = 0
    -- An empty stream goes on counting where it was, which may be ahead of the clock.
    if not head and redis.call('EXISTS', stream) == 1 then redis.call('DEL', stream) end
  elseif not head then
    size = 0
    for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
      head = nameOf(entry)
      size = size + #entry[2][6]
    end
  end
  head = head or place(now, 0) .. '-' .. suffix
end

local function isKept (entry)
  return length <= events and (length == 1 or size <= bytes) and numbers(entry[1]) > now - age
end

local function trim ()
  -- Those that are too many, and the one after them; twice as many when that is not all.
  local count = math.max(length - events, 0) + 1
  while length > 0 do
    local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', math.min(count, 100))
    local i = 1
    while entries[i] and not isKept(entries[i]) do
      length = length - 1
      size = size - #entries[i][2][6]
      i = i + 1
    end
    if i > 1 then redis.call('XTRIM', stream, 'MAXLEN', length) end
    if entries[i] then break end
    count = count * 2
  end
end

local function save (retention, ...)
  redis.call('HSET', meta, 'head', head, 'size', size, ...)
  redis.call('PEXPIRE', meta, age + retention)
end
`

/**
 * Appends events, and announces them.
 *
 * Keys: stream, hash, what this process has appended last, then one for each idempotency key. Arguments: the number of this call in its process,
 * suffix, topic, milliseconds for which a head is remembered, milliseconds for which a repeated call is known, the
 * three bounds of the history (or '' for those that it has); then for each event the number of its idempotency key
 * (or 0), its length in UTF-16 code units, and its data. The reply is the ids, separated by blanks; none of a call that is older than the last one.
 */
export const publishScript = script(`${log}
local last = redis.call('GET', KEYS[3])
if last then
  local number, ids = string.match(last, '^(%d+) (.*)$')
  if number == ARGV[1] then return ids end
  if tonumber(number) > tonumber(ARGV[1]) then return '' end
end
open(ARGV[2])
if ARGV[6] ~= '' then events, bytes, age = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]) end

local function known (key)
  local id = redis.call('GET', key)
  if not id then return end
  local at = place(numbers(id))
  local entry = redis.call('XRANGE', stream, at, at)[1]
  if not entry or nameOf(entry) ~= id then return end
  -- The age may have changed since.
  redis.call('PEXPIRE', key, age)
  return id
end

local ids, messages = {}, {}
for i = 9, #ARGV, 3 do
  local key, data = KEYS[3 + ARGV[i]], ARGV[i + 2]
  local isKeyed = ARGV[i] ~= '0'
  local id = isKeyed and known(key)
  if not id then
    local ms, number = numbers(head)
    if now > ms then ms, number = now, 0 else number = number + 1 end
    local at = place(ms, number)
    redis.call('XADD', stream, at, 'p', head, 'x', ARGV[2], 'd', data)
    id = at .. '-' .. ARGV[2]
    messages[#messages + 1] = id .. ' ' .. head .. ' ' .. ARGV[i + 1] .. '\\n' .. data
    head = id
    length = length + 1
    size = size + #data
    if isKeyed then redis.call('SET', key, id, 'PX', age) end
  end
  ids[#ids + 1] = id
end
trim()
save(ARGV[4], 'events', events, 'bytes', bytes, 'age', age)
redis.call('PEXPIRE', stream, age)
local reply = table.concat(ids, ' ')
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. reply, 'PX', ARGV[5])
if #messages > 0 then redis.call('PUBLISH', ARGV[3], table.concat(messages)) end
return reply
`)

/** Bytes after which a page is full. */
const pageBytes = 1_048_576

/**
 * Reads a page. Keys: stream, hash. Arguments: suffix, milliseconds for which a head is remembered, what is asked for
 * (live, earliest, newest, after), how many of the newest or the id after which, and how many events at most. The
 * reply is '1' or '0' for contiguous, base, head, and then id, previous and data of each event.
 */
export const readScript = script(`${log}
local isNew = not head
open(ARGV[1])
local before = length
-- The bounds are those of the last publish.
if fields[3] then trim() end
if isNew or length < before then save(ARGV[2]) elseif ARGV[3] == 'live' then redis.call('PEXPIRE', meta, age + ARGV[2]) end

local kind, limit = ARGV[3], tonumber(ARGV[5])
local page = {'1', head, head}
local taken, total = 0, 0

local function take (entry)
  if taken == 0 then page[2] = entry[2][2] end
  taken = taken + 1
  total = total + #entry[2][6]
  page[#page + 1] = nameOf(entry)
  page[#page + 1] = entry[2][2]
  page[#page + 1] = entry[2][6]
  return taken < limit and total < ${pageBytes}
end

local function takeFrom (start, skipped)
  while true do
    local entries = redis.call('XRANGE', stream, start, '+', 'COUNT', 50)
    for _, entry in ipairs(entries) do
      if nameOf(entry) ~= skipped and not take(entry) then return end
    end
    if #entries < 50 then return end
    skipped = nameOf(entries[50])
    start = entries[50][1]
  end
end

if kind == 'earliest' or (kind == 'newest' and tonumber(ARGV[4]) >= length) then
  takeFrom('-')
elseif kind == 'newest' and ARGV[4] ~= '0' then
  local entries = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', ARGV[4])
  for i = #entries, 1, -1 do
    if not take(entries[i]) then break end
  end
elseif kind == 'after' then
  takeFrom(place(numbers(ARGV[4])), ARGV[4])
  if page[2] ~= ARGV[4] then page[1] = '0' end
end
return page
`)

function script (text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}
