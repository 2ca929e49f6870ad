-- Adds a batch of usage to one tenant's counters of one day. Done once for each batch.
--
-- KEYS: 1 a mark that says "this batch is counted"; 2 the counters, a hash; both with the tenant's hash tag.
-- ARGV: 1 life of the mark, s; 2 life of the counters, s; then field and increment in turn.
-- Reply: 1, or 0 when the batch was counted before.

if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then
  return 0
end
for i = 3, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
