-- Hit, lead or follow, decided at once, so that of all who ask for an answer exactly one fetches it.
--
-- KEYS  1 the entry (8 bytes: Unix seconds of its storing, big-endian double; then opaque bytes)
--       2 the flight, a hash: id, until (ms: the lease's end), ended ('', 'ok', 'closed'), frames, bytes
--       3 its followers, a sorted set: id by end of presence (ms)
--       4 the tenant's counters, a hash
-- ARGV  1 now (Unix seconds, the clock of the storing)   2 greatest age that is a hit (s), -1: any
--       3 id for a flight of one's own and for one's presence as a follower; '': only look
--       4 the flight that failed the caller, or ''        5 lease (ms)   6 presence of a follower (ms)
--       7 whether the caller may lead: '1' or ''
-- Reply {'hit', entry} | {'lead', id} | {'follow', id} | {'none'}
local function count(what)
  redis.call('HINCRBY', KEYS[4], what, 1)
  redis.call('PEXPIRE', KEYS[4], 2592000000) -- 30 days
end

local entry = redis.call('GET', KEYS[1])
if entry and #entry >= 8 then
  local age = tonumber(ARGV[1]) - struct.unpack('>d', entry)
  local most = tonumber(ARGV[2])
  if most < 0 or age <= most then
    count('hits')
    return {'hit', entry}
  end
end
if ARGV[3] == '' then
  count('misses')
  return {'none'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local flight = redis.call('HMGET', KEYS[2], 'id', 'until', 'ended')
local id, ended = flight[1], flight[3] or ''
if id and id ~= ARGV[4] then
  -- A flight that ended well is as good as its entry, which may still be on its way. One that is closed (it failed, or
  -- its answer is not to be kept) speaks only to those whom an earlier one failed too: theirs is the second failure,
  -- and the last. Whoever comes anew tries anew.
  local is_alive = ended == '' and tonumber(flight[2]) > now
  if is_alive or ended == 'ok' or (ended == 'closed' and ARGV[4] ~= '') then
    redis.call('ZADD', KEYS[3], now + ARGV[6], ARGV[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[6] * 2)
    count('follows')
    redis.call('PUBLISH', 'v1:bells', id .. ':followers')
    return {'follow', id}
  end
end
if ARGV[7] == '' then
  count('misses')
  return {'none'}
end
redis.call('DEL', KEYS[2], KEYS[3]) -- not the earlier flight's events: those whom it failed still read of it
redis.call('HSET', KEYS[2], 'id', ARGV[3], 'until', now + ARGV[5], 'ended', '', 'frames', 0, 'bytes', 0)
redis.call('PEXPIRE', KEYS[2], ARGV[5] * 2)
count('misses')
return {'lead', ARGV[3]}
