-- Keep the answer of a record that is still its owner's. A tenant over its bytes loses its own oldest answers first.
--
-- KEYS[1] the record
-- KEYS[2] sorted set of all kept answers, KEYS[3] the tenant's own: members and scores as in claim.lua
-- KEYS[4] hash of kept bytes
-- ARGV    owner, answer (empty: too large to keep, but never to be run again), keep (ms), tenant, record's name,
--         most bytes of the tenant, most bytes of all, now (ms; empty: the server's clock)
-- Also deletes records of the same tenant, whose keys are KEYS[1] with another name (same hash tag, so same slot).
--
-- Reply   {ok} | {lost}: the record is another's | {gone} | {full}: not kept, and released. Finishing again is {ok}.
local now = tonumber(ARGV[8])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local tenant, name = ARGV[4], ARGV[5]
local prefix = string.sub(KEYS[1], 1, -#name - 1)
local overhead = 512 -- of a record and its two places, about

local function uncount(member, bytes)
  redis.call('ZREM', KEYS[3], member)
  if redis.call('ZREM', KEYS[2], member) == 0 then
    return false
  end
  redis.call('HINCRBY', KEYS[4], ':all', -bytes)
  redis.call('HINCRBY', KEYS[4], tenant, -bytes)
  return true
end

local function bytes_of(field)
  return tonumber(redis.call('HGET', KEYS[4], field) or 0)
end

local function forget(member)
  local other, bytes = string.match(member, '^[^:]*:([^:]*):(%d+)$')
  if uncount(member, bytes) then
    redis.call('DEL', prefix .. other)
  end
end

local state, owner = unpack(redis.call('HMGET', KEYS[1], 'state', 'owner'))
if not owner then
  return {'gone'}
elseif owner ~= ARGV[1] then
  return {'lost'}
elseif state == 'done' then
  return {'ok'}
end

local size = #ARGV[2] + overhead
local member = tenant .. ':' .. name .. ':' .. size
uncount(member, size) -- of an earlier life of this record
while bytes_of(tenant) + size > tonumber(ARGV[6]) do
  local oldest = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if not oldest then
    break
  end
  forget(oldest)
end
if bytes_of(tenant) + size > tonumber(ARGV[6]) or bytes_of(':all') + size > tonumber(ARGV[7]) then
  redis.call('DEL', KEYS[1])
  return {'full'}
end

redis.call('HSET', KEYS[1], 'state', 'done', 'answer', ARGV[2], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], member)
redis.call('ZADD', KEYS[3], now + ARGV[3], member)
redis.call('PEXPIRE', KEYS[3], ARGV[3])
redis.call('HINCRBY', KEYS[4], ':all', size)
redis.call('HINCRBY', KEYS[4], tenant, size)
return {'ok'}
