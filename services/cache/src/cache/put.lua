-- Stores an entry and, if its writer led a flight, lets go of the lease with it.
--
-- KEYS  1 the entry   2 the flight   3 its events   4 its followers   5 the tenant's counters
-- ARGV  1 the entry's bytes   2 its life (s)   3 the writer's flight, or ''   4 how long an ended flight stays (ms)
-- Reply 1
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('HINCRBY', KEYS[5], 'stored', 1)
redis.call('PEXPIRE', KEYS[5], 2592000000)
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], 'id') == ARGV[3] and redis.call('HGET', KEYS[2], 'ended') == '' then
  if redis.call('EXISTS', KEYS[4]) == 1 then
    redis.call('HSET', KEYS[2], 'ended', 'ok')
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
    redis.call('PUBLISH', 'v1:bells', ARGV[3])
  else
    redis.call('DEL', KEYS[2], KEYS[3])
  end
end
return 1
