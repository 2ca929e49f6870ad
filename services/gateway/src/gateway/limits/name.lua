-- Names a tenant among those that used something on a day.
--
-- KEYS: 1 the set of that day. ARGV: 1 its life, s; 2 the tenant. Reply: 1.

redis.call('SADD', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
