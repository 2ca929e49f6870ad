-- heartbeat: prolongs the leases of the jobs that a worker runs, all in one call.
--
-- ARGV[2]  ms of the lease   ARGV[3…]  id and fence of each run, in pairs
--
-- Reply: for each, 'ok'; 'cancel' when its owner cancelled it; 'lost' when the run is not the worker's any more for
-- another reason.

local replies = {}
for place = 3, #ARGV, 2 do
  local id = ARGV[place]
  if holds(id, ARGV[place + 1]) then
    redis.call('ZADD', P .. 'leases', int(now + tonumber(ARGV[2])), id)
    replies[#replies + 1] = 'ok'
  else
    replies[#replies + 1] = get(id, 'state') == 'cancelled' and 'cancel' or 'lost'
  end
end
return replies
