-- accept: a new job's record, its place in its tenant's waiting list, its idempotency record: all of it or nothing.
--
-- ARGV[2]  id          ARGV[3]  tenant
-- ARGV[4]  open jobs that the tenant may have        ARGV[5]  open jobs of all tenants
-- ARGV[6]  bytes that all records together may take  ARGV[7]  ms until the deadline
-- ARGV[8]  digest of the tenant's Idempotency-Key, or empty  ARGV[9]  digest of what was submitted
-- ARGV[10] the request, sealed                       ARGV[11] ms for which a final record is kept
-- ARGV[12…] further fields of the record and their values, in pairs
--
-- Reply: {'ok', id}; {'dup', id} when the key, or this very id, has been accepted before; {'mismatch', id} when the key
-- came with something else; {'tenant_full', ''}; {'full', ''}. Nothing is written unless it is 'ok'.

local id, tenant, request, keep_ms = ARGV[2], ARGV[3], ARGV[10], tonumber(ARGV[11])
local patience = tonumber(ARGV[7])
local idempotency = ARGV[8] ~= '' and P .. 'idem:' .. tenant .. ':' .. ARGV[8]

if idempotency then
  local known_id, known_digest = unpack(redis.call('HMGET', idempotency, 'id', 'digest'))
  if known_id then
    return { known_digest == ARGV[9] and 'dup' or 'mismatch', known_id }
  end
end
if redis.call('EXISTS', name(id)) == 1 then
  return { 'dup', id }
end
if tonumber(redis.call('HGET', P .. 'depth', tenant) or 0) >= tonumber(ARGV[4]) then
  return { 'tenant_full', '' }
end
if redis.call('ZCARD', P .. 'deadlines') >= tonumber(ARGV[5]) then
  return { 'full', '' }
end
local bytes = OVERHEAD + RESERVE + #request
for place = 12, #ARGV do
  bytes = bytes + #ARGV[place]
end
if tonumber(redis.call('GET', P .. 'bytes') or 0) + bytes > tonumber(ARGV[6]) then
  return { 'full', '' }
end

local number = redis.call('INCR', P .. 'number')
redis.call('HSET', name(id), 'tenant', tenant, 'attempts', 0, 'fence', 0, 'delays', 0, 'bytes', 0,
  'created_at', int(now), 'deadline', int(now + patience), 'keep_ms', int(keep_ms), 'request', request,
  'request_bytes', #request, unpack(ARGV, 12))
grow(id, bytes)
redis.call('ZADD', P .. 'all', number, id)
redis.call('ZADD', P .. 'of:' .. tenant, number, id)
redis.call('ZADD', P .. 'deadlines', int(now + patience), id)
redis.call('HINCRBY', P .. 'depth', tenant, 1)
tell(id, 'queued', 0)
enqueue(id, tenant, false)
if idempotency then
  redis.call('HSET', idempotency, 'id', id, 'digest', ARGV[9])
  redis.call('PEXPIRE', idempotency, int(patience + keep_ms))
end
return { 'ok', id }
