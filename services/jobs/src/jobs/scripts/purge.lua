-- purge: an operator removes a dead letter, record and events, before its time.
--
-- ARGV[2]  id
--
-- Reply: 1, or 0 when there is no such dead letter.

local id = ARGV[2]
if not redis.call('ZSCORE', P .. 'dead', id) then
  return 0
end
remove(id)
return 1
