-- claim: the next job, of the tenant whose turn it is. Counts the attempt, so that a worker that dies has used it; grows
-- the fence, so that whoever ran the job before can change nothing any more; starts the lease.
--
-- ARGV[2]  ms of the lease
--
-- Reply: {id, fence, attempt, ms until the deadline, ms that it waited, now, the fields of the record as a flat list}, or
-- nothing when no job waits.

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
  local deadline, ready_at = get(id, 'deadline', 'ready_at')
  if tonumber(deadline) <= now then
    settle(id, 'expired', false)
  else
    local fence = redis.call('HINCRBY', name(id), 'fence', 1)
    local attempt = redis.call('HINCRBY', name(id), 'attempts', 1)
    redis.call('HSET', name(id), 'state', 'running', 'chunks', 0, 'chunk_bytes', 0)
    redis.call('HSETNX', name(id), 'started_at', int(now))
    redis.call('ZADD', P .. 'leases', int(now + tonumber(ARGV[2])), id)
    tell(id, 'running', attempt)
    return { id, fence, attempt, int(deadline - now), int(now - ready_at), int(now), redis.call('HGETALL', name(id)) }
  end
end
