-- append: chunks of a streamed answer, as events of the job, in order and under the fence. Said twice it is done once,
-- because a worker that heard no reply says it again.
--
-- ARGV[2]  id   ARGV[3]  fence   ARGV[4]  how many chunks of this attempt went before
-- ARGV[5]  bytes that the chunks of one attempt may take together
-- ARGV[6]  bytes that all records together may take   ARGV[7…]  chunks, sealed
--
-- Reply: 'ok'; 'lost' when the run is not the worker's any more; 'too_large' or 'full' when a bound is reached. Nothing is
-- written unless it is 'ok'.

local id, before = ARGV[2], tonumber(ARGV[4])
if not holds(id, ARGV[3]) then
  return 'lost'
end
local chunks, chunk_bytes = get(id, 'chunks', 'chunk_bytes')
if tonumber(chunks) > before then
  return 'ok'
end
local bytes = 0
for place = 7, #ARGV do
  bytes = bytes + #ARGV[place] + 16
end
if tonumber(chunk_bytes) + bytes > tonumber(ARGV[5]) then
  return 'too_large'
end
if tonumber(redis.call('GET', P .. 'bytes')) + bytes > tonumber(ARGV[6]) then
  return 'full'
end
redis.call('HSET', name(id), 'chunk_bytes', int(chunk_bytes + bytes), 'chunks', int(before + #ARGV - 6))
grow(id, bytes)
for place = 7, #ARGV do
  redis.call('RPUSH', P .. 'events:' .. id, 'c' .. ARGV[place])
end
return 'ok'
