-- Take a record, or say what became of it. One owner at a time: a record is free when there is none, when its lease has
-- lapsed (its owner died) or when its answer is no longer kept.
--
-- KEYS[1] the record, a hash: state (running | done), body, owner, until (ms), waited (ms), answer
-- KEYS[2] sorted set of all kept answers: member tenant:record:bytes, score the end of its keeping (ms)
-- KEYS[3] hash of kept bytes: one field a tenant, and `:all`
-- ARGV    owner, body (a keyed hash), lease (ms), most bytes of all tenants, now (ms; empty: the server's clock)
--
-- Reply   {claimed} | {running, ms that its lease has left} | {mismatch}: another body | {done, answer}
--         | {full}: nothing more can be kept, so nothing is promised. Claiming again as the same owner is {claimed}.
local now = tonumber(ARGV[5])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local state, body, owner, lasts = unpack(redis.call('HMGET', KEYS[1], 'state', 'body', 'owner', 'until'))
if state and tonumber(lasts) > now then
  if body ~= ARGV[2] then
    return {'mismatch'}
  elseif state == 'done' then
    return {'done', redis.call('HGET', KEYS[1], 'answer')}
  elseif owner ~= ARGV[1] then
    redis.call('HSET', KEYS[1], 'waited', now)
    return {'running', tonumber(lasts) - now}
  end
  redis.call('HSET', KEYS[1], 'until', now + ARGV[3])
  redis.call('PEXPIRE', KEYS[1], 2 * ARGV[3])
  return {'claimed'}
end

for _, member in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 20)) do
  local tenant, bytes = string.match(member, '^([^:]*):[^:]*:(%d+)$')
  redis.call('ZREM', KEYS[2], member)
  redis.call('HINCRBY', KEYS[3], ':all', -bytes)
  if redis.call('HINCRBY', KEYS[3], tenant, -bytes) <= 0 then
    redis.call('HDEL', KEYS[3], tenant)
  end
end
if tonumber(redis.call('HGET', KEYS[3], ':all') or 0) >= tonumber(ARGV[4]) then
  return {'full'}
end

redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', 'running', 'body', ARGV[2], 'owner', ARGV[1], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[3])
return {'claimed'}
