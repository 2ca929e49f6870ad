-- A follower goes.
--
-- KEYS  1 the followers of the flight
-- ARGV  1 the flight's id   2 the follower's id
-- Reply how many are left
redis.call('ZREM', KEYS[1], ARGV[2])
local left = redis.call('ZCARD', KEYS[1])
if left == 0 then
  redis.call('PUBLISH', 'v1:bells', ARGV[1] .. ':followers')
end
return left
