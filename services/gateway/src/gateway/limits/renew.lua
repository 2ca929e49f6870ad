-- Keeps the leases of a call that still runs; brings them back if they expired while this store could not be reached.
--
-- KEYS: the mark of settle.lua, then the leases of each scope that has them; all with the tenant's hash tag.
-- ARGV: 1 now, µs (0: this server's TIME); 2 id of the call; 3 life of its leases, µs.
-- Reply: 1, or 0 when the call is settled: a renewal that arrives late brings nothing back.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local life = tonumber(ARGV[3])
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[i], string.format('%.0f', now + life), ARGV[2])
  redis.call('PEXPIRE', KEYS[i], string.format('%.0f', math.ceil(life / 1000) * 2))
end
return 1
