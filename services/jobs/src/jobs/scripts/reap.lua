-- reap: what time alone does. Every replica runs it each second; running it twice changes nothing.
--
-- ARGV[2]  how many of each kind at most, so that one call stays short
--
-- Reply: {jobs whose deadline passed, leases that ran out, delayed jobs that are ready again, records that went}

local limit = tonumber(ARGV[2])
local SPREAD = 5000  -- ms
local LOST = '{"message":"The worker was lost.","type":"server_error","param":null,"code":"worker_lost"}'

local function due(set)
  return redis.call('ZRANGEBYSCORE', P .. set, '-inf', int(now), 'LIMIT', 0, limit)
end

local expired = due('deadlines')
for _, id in ipairs(expired) do
  settle(id, 'expired', false)
end

local lost = due('leases')
for _, id in ipairs(lost) do
  local tenant, attempts, max_attempts, fence = get(id, 'tenant', 'attempts', 'max_attempts', 'fence')
  if tonumber(attempts) >= tonumber(max_attempts) then
    bury(id, LOST, 'worker_lost')
  else
    redis.call('ZREM', P .. 'leases', id)
    redis.call('ZADD', P .. 'stops', int(now), id .. ':' .. fence)
    redis.call('HSET', name(id), 'code', 'worker_lost')
    if tonumber(attempts) == 1 then
      tell(id, 'queued', attempts)
      enqueue(id, tenant, true)
    else
      -- Lost again: one of those that were lost together may be what kills workers. They come back apart.
      delay(id, attempts, (tonumber(string.sub(id, -4), 16) or 0) % SPREAD)
    end
  end
end

local ready = due('delayed')
for _, id in ipairs(ready) do
  redis.call('ZREM', P .. 'delayed', id)
  local tenant, attempts = get(id, 'tenant', 'attempts')
  tell(id, 'queued', attempts)
  enqueue(id, tenant, false)
end

local ended = due('ends')
for _, id in ipairs(ended) do
  remove(id)
end

redis.call('ZREMRANGEBYSCORE', P .. 'stops', '-inf', int(now - 60000))
return { #expired, #lost, #ready, #ended }
