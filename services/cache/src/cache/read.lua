-- What a follower has not read yet, and whether more may come; it notes that somebody follows.
--
-- KEYS  1 the flight   2 its events   3 its followers
-- ARGV  1 the flight's id   2 number of the first frame   3 most frames   4 the follower's id   5 its presence (ms)
-- Reply {'open' | 'ended' | 'lost', frame…}; 'ended' only when the last frame is among them
local first = tonumber(ARGV[2])
local frames = redis.call('LRANGE', KEYS[2], first, first + ARGV[3] - 1)
local state = redis.call('HMGET', KEYS[1], 'id', 'until', 'ended', 'frames')
if state[1] ~= ARGV[1] then -- over; its end is among the frames, or nobody will ever know
  table.insert(frames, 1, #frames > 0 and 'open' or 'lost')
  return frames
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZADD', KEYS[3], now + ARGV[5], ARGV[4]) == 1 then
  redis.call('PUBLISH', 'v1:bells', ARGV[1] .. ':followers')
end
redis.call('PEXPIRE', KEYS[3], ARGV[5] * 2)
local told = first + #frames
local word = 'open'
if told < tonumber(state[4]) then
  if #frames == 0 then -- the list was forgotten, the flight was not
    word = 'lost'
  end
elseif state[3] ~= '' then
  word = 'ended'
elseif tonumber(state[2]) <= now then
  word = 'lost'
end
table.insert(frames, 1, word)
return frames
