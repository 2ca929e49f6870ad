-- Corrects what a call took when it was admitted by what it really used, and frees its leases. Done once for each call.
--
-- KEYS: a mark that says "this call is settled", then for each scope its counters and its leases, as in admit.lua; all
--   with the tenant's hash tag.
-- ARGV: 1 now, µs (0: this server's TIME); 2 id of the call; 3 life of the mark, s; 4 day and 5 month in which it was
--   admitted; then for each scope: by how much to move r and t (µs, either way), what to add to the spending
--   (micro-dollars, either way; 0 also for a scope without a budget), 1 if the scope has a budget else 0.
-- Reply: 1, or 0 when the call was settled before.
-- Spending goes to the day and the month of admission, if they are not over.

local BUDGET_LIFE_MS = 40 * 86400 * 1000

if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[3]) then
  return 0
end
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function integer(number)
  return string.format('%.0f', number)
end

-- Only ever longer: what counts a request alone (a replay, a submitted job) must not make a budget be forgotten.
local function keep(name, ms)
  if redis.call('PTTL', name) < ms then redis.call('PEXPIRE', name, integer(ms)) end
end

local day, month = tonumber(ARGV[4]), tonumber(ARGV[5])
for i = 1, (#KEYS - 1) / 2 do
  local counters = KEYS[2 * i]
  local at = 5 + (i - 1) * 4
  redis.call('ZREM', KEYS[2 * i + 1], ARGV[2])
  local kept = redis.call('HMGET', counters, 'r', 't', 'day', 'd', 'month', 'm')
  local changed = {}
  local ahead = 0
  local function move(name, before, by)
    if by > 0 then
      before = math.max(tonumber(before) or 0, now)
    end
    if before and by ~= 0 then -- nothing is given back to counters that are gone: they have filled up by themselves
      local after = before + by
      ahead = math.max(ahead, after - now)
      changed[#changed + 1] = name
      changed[#changed + 1] = integer(after)
    end
  end
  move('r', kept[1], tonumber(ARGV[at + 1]))
  move('t', kept[2], tonumber(ARGV[at + 2]))
  local spent = tonumber(ARGV[at + 3])
  local function spend(period, kept_period, name, kept_spent, current)
    kept_period = tonumber(kept_period) or 0
    if spent ~= 0 and kept_period <= current then
      local before = kept_period == current and tonumber(kept_spent) or 0
      for _, word in ipairs({period, integer(current), name, integer(math.max(before + spent, 0))}) do
        changed[#changed + 1] = word
      end
    end
  end
  spend('day', kept[3], 'd', kept[4], day)
  spend('month', kept[5], 'm', kept[6], month)
  if #changed > 0 then
    redis.call('HSET', counters, unpack(changed))
    if ARGV[at + 4] == '1' then
      keep(counters, BUDGET_LIFE_MS)
    elseif ahead > 0 then
      keep(counters, math.max(math.ceil(ahead / 1000) + 60000, 120000))
    end
  end
end
return 1
