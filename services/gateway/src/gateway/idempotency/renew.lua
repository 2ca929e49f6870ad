-- Prolong an owner's lease, and tell it whether anybody elsewhere waits for its answer.
--
-- KEYS[1] the record
-- ARGV    owner, lease (ms), now (ms; empty: the server's clock)
--
-- Reply   {ok, ms since a waiter last asked; -1: none did} | {lost}: the lease had lapsed and the record is another's,
--         or gone
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local state, owner, waited = unpack(redis.call('HMGET', KEYS[1], 'state', 'owner', 'waited'))
if state ~= 'running' or owner ~= ARGV[1] then
  return {'lost'}
end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2])
return {'ok', waited and now - waited or -1}
