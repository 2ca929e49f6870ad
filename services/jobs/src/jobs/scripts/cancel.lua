-- cancel: its owner (or an operator) ends a job; what runs of it is told to stop.
--
-- ARGV[2]  id   ARGV[3]  tenant, or empty for an operator
--
-- Reply: the state that the job has now, which is another than 'cancelled' when it was final before; 'none' when the
-- tenant has no such job.

local id = ARGV[2]
local tenant, state = get(id, 'tenant', 'state')
if not tenant or (ARGV[3] ~= '' and ARGV[3] ~= tenant) then
  return 'none'
end
if FINAL[state] then
  return state
end
settle(id, 'cancelled', false)
return 'cancelled'
