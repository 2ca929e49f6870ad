-- The head of every script of this folder: names, the clock, and what several transitions share. The text of a script
-- becomes a function; the reply is {what it returns, {state, ms since its submission, … of each job that it ended}}.
--
-- KEYS[1]  the prefix of every key, for example v1:{jobs}. It is no key itself: its hash tag names the cluster slot in
--          which all keys of the queue lie, so that a script may reach keys that it learns only while it runs.
-- ARGV[1]  milliseconds since the epoch; empty in production, where the server's TIME is the only clock there is.
--
-- <prefix>:job:<id>        hash: the record. Nothing but these scripts changes it
-- <prefix>:events:<id>     list: 's' + JSON for a change of state, 'c' + sealed bytes for a chunk; an event's id is its index
-- <prefix>:ready:<tenant>  list of ids that wait; <prefix>:ring: list of the tenants that have such a list, next one first
-- <prefix>:delayed         zset id -> when it is ready again    <prefix>:leases     zset id -> when its lease ends
-- <prefix>:deadlines       zset id -> deadline, of every open job: its size is the number of open jobs
-- <prefix>:depth           hash tenant -> open jobs             <prefix>:bytes      what all records together take
-- <prefix>:all, <prefix>:of:<tenant>   zset id -> number in order of acceptance; <prefix>:number: the last one
-- <prefix>:dead            zset id -> when it ran out of attempts
-- <prefix>:ends            zset id -> when a final record goes; <prefix>:gone:<id>: its tenant, for some days after
-- <prefix>:idem:<tenant>:<digest>  the id and body digest behind an Idempotency-Key
-- <prefix>:claim:<name>    the id of the job that a claim got, for a lease: a reply may get lost
-- <prefix>:wake            list of hints for blocked workers: may get lost, may be too many
-- <prefix>:stops           zset 'id:fence' -> when: runs that ended without their worker, so that it stops soon

local P = KEYS[1] .. ':'
local OVERHEAD = 1024  -- bytes that a record takes beside its payloads; measured: 900 with its places in the indexes
local RESERVE = 4096   -- bytes kept for the result of an open job
local WAKE_HINTS = 1000
local DAY = 86400000
local TOMBSTONE = 7 * DAY

local function int(number)
  return string.format('%.0f', number)
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local ended = {}

local FINAL = { succeeded = true, failed = true, cancelled = true, expired = true }

local function name(id)
  return P .. 'job:' .. id
end

local function get(id, ...)
  return unpack(redis.call('HMGET', name(id), ...))
end

local function grow(id, bytes)
  redis.call('HINCRBY', name(id), 'bytes', int(bytes))
  redis.call('INCRBY', P .. 'bytes', int(bytes))
end

-- Appends a change of state to the events: whoever follows the job sees it, and their number is the record's version.
local function tell(id, state, attempts)
  redis.call('RPUSH', P .. 'events:' .. id,
    's{"state":"' .. state .. '","attempts":' .. attempts .. ',"at":' .. string.format('%.3f', now / 1000) .. '}')
end

local function wake()
  redis.call('LPUSH', P .. 'wake', '1')
  redis.call('LTRIM', P .. 'wake', 0, WAKE_HINTS - 1)
end

-- Lets a job wait for a worker: behind its tenant's others, or before them when it has had its turn already.
local function enqueue(id, tenant, is_first)
  local waiting = redis.call(is_first and 'LPUSH' or 'RPUSH', P .. 'ready:' .. tenant, id)
  if waiting == 1 then
    redis.call('RPUSH', P .. 'ring', tenant)
  end
  redis.call('HSET', name(id), 'state', 'queued', 'ready_at', int(now))
  wake()
end

-- Lets a job wait until it is due.
local function delay(id, attempts, ms)
  redis.call('HSET', name(id), 'state', 'delayed', 'ready_at', int(now + ms))
  redis.call('ZADD', P .. 'delayed', int(now + ms), id)
  tell(id, 'delayed', attempts)
end

local function forget_waiting(id, tenant)
  if redis.call('LREM', P .. 'ready:' .. tenant, 1, id) == 1 and redis.call('EXISTS', P .. 'ready:' .. tenant) == 0 then
    redis.call('LREM', P .. 'ring', 1, tenant)
  end
end

-- Ends a job, whatever it did. The caller has made sure that it is not final. `keep_request`: an operator may retry it.
local function settle(id, state, keep_request)
  local tenant, was, attempts, fence, keep_ms, request_bytes, created_at =
    get(id, 'tenant', 'state', 'attempts', 'fence', 'keep_ms', 'request_bytes', 'created_at')
  if was == 'queued' then
    forget_waiting(id, tenant)
  elseif was == 'running' then
    redis.call('ZADD', P .. 'stops', int(now), id .. ':' .. fence)
  end
  redis.call('ZREM', P .. 'delayed', id)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'deadlines', id)
  if redis.call('HINCRBY', P .. 'depth', tenant, -1) == 0 then
    redis.call('HDEL', P .. 'depth', tenant)
  end
  local keep = tonumber(keep_ms)
  redis.call('HSET', name(id), 'state', state, 'finished_at', int(now), 'expires_at', int(now + keep))
  if keep_request then
    keep = math.max(keep, TOMBSTONE)
    grow(id, -RESERVE)
  else
    redis.call('HDEL', name(id), 'request')
    grow(id, -RESERVE - tonumber(request_bytes))
  end
  redis.call('ZADD', P .. 'ends', int(now + keep), id)
  tell(id, state, attempts)
  ended[#ended + 1] = state
  ended[#ended + 1] = now - created_at
end

-- Fails a job whose attempts are used up; it becomes a dead letter.
local function bury(id, failure, code)
  redis.call('HSET', name(id), 'error', failure, 'code', code)
  grow(id, #failure)
  redis.call('ZADD', P .. 'dead', int(now), id)
  settle(id, 'failed', true)
end

-- Removes a final record. Its tenant is remembered for some days: 'gone' is another answer than 'never was'.
local function remove(id)
  local tenant, bytes = get(id, 'tenant', 'bytes')
  redis.call('DEL', name(id), P .. 'events:' .. id)
  redis.call('ZREM', P .. 'ends', id)
  redis.call('ZREM', P .. 'dead', id)
  redis.call('ZREM', P .. 'all', id)
  redis.call('ZREM', P .. 'of:' .. tenant, id)
  redis.call('DECRBY', P .. 'bytes', bytes)
  redis.call('SET', P .. 'gone:' .. id, tenant, 'PX', TOMBSTONE)
end

-- Whether the caller still is the one that runs the job. Only the newest claim has the record's fence.
local function holds(id, fence)
  return get(id, 'fence') == fence and get(id, 'state') == 'running'
end
