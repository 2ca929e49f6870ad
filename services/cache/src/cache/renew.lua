-- The leader is there: its lease starts anew.
--
-- KEYS  1 the flight   2 its events   3 its followers
-- ARGV  1 the flight's id   2 lease (ms)
-- Reply {held (0 or 1), number of followers that are present}
local state = redis.call('HMGET', KEYS[1], 'id', 'ended')
if state[1] ~= ARGV[1] or state[2] ~= '' then
  return {0, 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
redis.call('PEXPIRE', KEYS[2], ARGV[2] * 2)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return {1, redis.call('ZCARD', KEYS[3])}
