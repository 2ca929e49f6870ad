-- Appends frames to a flight, in order and at most once: what a writer repeats because it did not hear back is skipped.
--
-- KEYS  1 the flight   2 its events
-- ARGV  1 the flight's id   2 number of the first frame   3 '' or how the flight ends with these: 'ok', 'closed'
--       4 most bytes of a flight   5 lease (ms)   6 how long an ended flight stays (ms)   7… frames
-- Reply 1 appended | 0 the flight is not the caller's any more | -1 too large: it is given up
local state = redis.call('HMGET', KEYS[1], 'id', 'ended', 'bytes')
if state[1] ~= ARGV[1] or state[2] ~= '' then
  return 0
end
local length = redis.call('LLEN', KEYS[2])
local first = tonumber(ARGV[2])
if first > length then -- the store forgot some: nobody can follow any more
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('PUBLISH', 'v1:bells', ARGV[1])
  return 0
end
local bytes = tonumber(state[3])
for place = 7 + length - first, #ARGV do
  bytes = bytes + #ARGV[place]
  if bytes > tonumber(ARGV[4]) then
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('PUBLISH', 'v1:bells', ARGV[1])
    return -1
  end
  length = redis.call('RPUSH', KEYS[2], ARGV[place])
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until', now + ARGV[5], 'ended', ARGV[3], 'frames', length, 'bytes', bytes)
local stays = ARGV[3] == '' and ARGV[5] * 2 or ARGV[6]
redis.call('PEXPIRE', KEYS[1], stays)
redis.call('PEXPIRE', KEYS[2], stays)
redis.call('PUBLISH', 'v1:bells', ARGV[1])
return 1
