-- Give a record up without an answer, so that whoever asks next runs anew.
--
-- KEYS[1] the record
-- ARGV    owner
--
-- Reply   {ok} | {lost}: it is another's, finished, or gone
local state, owner = unpack(redis.call('HMGET', KEYS[1], 'state', 'owner'))
if state ~= 'running' or owner ~= ARGV[1] then
  return {'lost'}
end
redis.call('DEL', KEYS[1])
return {'ok'}
