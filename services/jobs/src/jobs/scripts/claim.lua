-- claim: the next job, of the tenant whose turn it is. Counts the attempt, so that a worker that dies has used it; grows
-- the fence, so that whoever ran the job before can change nothing any more; starts the lease.
--
-- ARGV[2]  ms of the lease   ARGV[3]  the claim's own name: said again under it, because the reply did not come, it is the
--          same claim as long as its job is still run under it
--
-- Reply: {id, fence, ms until the deadline, ms that it waited, the fields of the record as a flat list}, or nothing when
-- no job waits.

local memory = P .. 'claim:' .. ARGV[3]

local function reply(id)
  local fence, deadline, ready_at, lease_from = get(id, 'fence', 'deadline', 'ready_at', 'claimed_at')
  return { id, fence, int(deadline - now), int(lease_from - ready_at), redis.call('HGETALL', name(id)) }
end

local known = redis.call('GET', memory)
if known and get(known, 'claim') == ARGV[3] and get(known, 'state') == 'running' then
  redis.call('ZADD', P .. 'leases', int(now + tonumber(ARGV[2])), known)
  return reply(known)
end

while true do
  local tenant = redis.call('LPOP', P .. 'ring')
  if not tenant then
    redis.call('DEL', P .. 'wake')  -- every hint was answered, this one too
    return false
  end
  local id = redis.call('LPOP', P .. 'ready:' .. tenant)
  if redis.call('EXISTS', P .. 'ready:' .. tenant) == 1 then
    redis.call('RPUSH', P .. 'ring', tenant)
  end
  if tonumber((get(id, 'deadline'))) <= now then
    settle(id, 'expired', false)
  else
    redis.call('HINCRBY', name(id), 'fence', 1)
    local attempt = redis.call('HINCRBY', name(id), 'attempts', 1)
    redis.call('HSET', name(id), 'state', 'running', 'chunks', 0, 'chunk_bytes', 0, 'claim', ARGV[3], 'claimed_at', int(now))
    redis.call('HSETNX', name(id), 'started_at', int(now))
    redis.call('ZADD', P .. 'leases', int(now + tonumber(ARGV[2])), id)
    redis.call('SET', memory, id, 'PX', ARGV[2])
    tell(id, 'running', attempt)
    return reply(id)
  end
end
