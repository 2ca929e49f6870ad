-- release: a worker gives a job back, to be run again.
--
-- ARGV[2]  id   ARGV[3]  fence   ARGV[4]  ms until it may run again; 0: at once, before the tenant's others
-- ARGV[5]  '1' when the attempt is given back: the job was not to blame   ARGV[6]  why, sealed, or empty   ARGV[7]  its code, or empty
--
-- Reply: the state that the job has now: 'queued', 'delayed', or 'failed' when its attempts were used up; 'fenced' when
-- the run is not the worker's any more.

local id, wait = ARGV[2], tonumber(ARGV[4])
local tenant, fence, state, attempts, max_attempts = get(id, 'tenant', 'fence', 'state', 'attempts', 'max_attempts')
if fence ~= ARGV[3] then
  return 'fenced'
end
if state ~= 'running' then
  return state  -- said twice: the first reply was lost
end
if ARGV[7] ~= '' then
  redis.call('HSET', name(id), 'code', ARGV[7])
end
if ARGV[5] == '1' then
  attempts = redis.call('HINCRBY', name(id), 'attempts', -1)
elseif tonumber(attempts) >= tonumber(max_attempts) then
  bury(id, ARGV[6], ARGV[7])
  return 'failed'
end
redis.call('ZREM', P .. 'leases', id)
if wait == 0 then
  tell(id, 'queued', attempts)
  enqueue(id, tenant, true)
  return 'queued'
end
redis.call('HINCRBY', name(id), 'delays', 1)
delay(id, attempts, wait)
return 'delayed'
