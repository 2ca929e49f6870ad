-- finish: a run came to its end: succeeded, failed, or expired. The first final state of a job wins.
--
-- ARGV[2]  id   ARGV[3]  fence   ARGV[4]  state   ARGV[5]  bytes that all records together may take
-- ARGV[6]  the answer's status, or empty   ARGV[7]  the result, sealed, or empty
-- ARGV[8]  error, sealed, or empty           ARGV[9]  the error's code, or empty
--
-- Reply: the state that the job has now; 'fenced' when the run is not the worker's any more and the job is still open.
-- A result for which there is no room fails the job with 'storage_full'.

local id, state, result, failure, code = ARGV[2], ARGV[4], ARGV[7], ARGV[8], ARGV[9]
if not holds(id, ARGV[3]) then
  local found = get(id, 'state')
  return FINAL[found] and found or 'fenced'
end
if result ~= '' and tonumber(redis.call('GET', P .. 'bytes')) + #result - RESERVE > tonumber(ARGV[5]) then
  state, result, code = 'failed', '', 'storage_full'
  failure = '{"message":"There was no room to keep the result.","type":"server_error","param":null,"code":"storage_full"}'
end
redis.call('HSET', name(id), 'status', ARGV[6])
if result ~= '' then
  redis.call('HSET', name(id), 'result', result)
  grow(id, #result)
end
if failure ~= '' then
  redis.call('HSET', name(id), 'error', failure, 'code', code)
  grow(id, #failure)
end
settle(id, state, false)
return state
