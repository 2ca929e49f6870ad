-- The leader lets go of a flight that it will not finish.
--
-- KEYS  1 the flight   2 its events   3 its followers
-- ARGV  1 the flight's id   2 '1': only if nobody follows
-- Reply 1 let go | 0 somebody follows | -1 it was not the caller's any more
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return -1
end
if ARGV[2] == '1' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf') > 0 then
    return 0
  end
end
if redis.call('HGET', KEYS[1], 'ended') ~= '' then -- it may still be read
  return -1
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('PUBLISH', 'v1:bells', ARGV[1])
return 1
