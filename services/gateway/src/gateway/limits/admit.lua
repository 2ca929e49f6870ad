-- Admits one call under the limits of every scope that it falls into, or under none of them.
--
-- KEYS, two for each scope, all with the tenant's hash tag:
--   counters  hash: r, t = theoretical arrival times of requests and tokens, µs of this server's clock (GCRA);
--             day, d = a day (days since 1970-01-01) and what was spent on it; month, m = likewise (year * 12 + month)
--   leases    sorted set: the ids of the calls that run, scored with the time at which each lease expires, µs
-- ARGV:
--   1  now, µs; 0: this server's TIME (anything else is for tests)
--   2  not after, µs: once it is later than this nobody waits for the answer any more; 0: no bound
--   3  id of the call
--   4  life of its lease, µs
--   5  its cost, micro-dollars
--   then for each scope: interval of its request, interval of its tokens, most leases, most a day, most a month
--   (µs, µs, count, micro-dollars; -1: no such limit; 0 tokens are never refused), 1 if the scope only watches (shadow) else 0
-- Reply: {outcome (0 refused, 1 admitted, 2 too late: nothing was looked at), now, day, month,
--   then for each scope: violations (bits: 1 requests, 2 tokens, 4 concurrency, 8 day, 16 month), how far r and t are
--   ahead of now (µs), leases, spent today, spent this month}; as they are afterwards.
-- A scope that only watches refuses nothing, and what it would have refused it does not count.
-- Source: GCRA, ITU-T I.371; the civil calendar: https://howardhinnant.github.io/date_algorithms.html

local MINUTE = 60000000
local BUDGET_LIFE_MS = 40 * 86400 * 1000

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local not_after = tonumber(ARGV[2])
if not_after > 0 and now > not_after then
  return {2, now, 0, 0}
end
local call, life, cost = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local floor = math.floor
local day = floor(now / 86400000000)
local shifted = day + 719468
local era = floor(shifted / 146097)
local of_era = shifted - era * 146097
local year_of_era = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
local of_year = of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
local march_month = floor((5 * of_year + 2) / 153)
local month = (year_of_era + era * 400) * 12 + march_month + 3 -- January and February fall into the next year by themselves

local function integer(number)
  return string.format('%.0f', number)
end

-- Only ever longer: what counts a request alone (a replay, a submitted job) must not make a budget be forgotten.
local function keep(name, ms)
  if redis.call('PTTL', name) < ms then redis.call('PEXPIRE', name, integer(ms)) end
end

local scopes = #KEYS / 2
local states = {}
local is_refused = false
for i = 1, scopes do
  local at = 5 + (i - 1) * 6
  local scope = {
    r_inc = tonumber(ARGV[at + 1]), t_inc = tonumber(ARGV[at + 2]), most_leases = tonumber(ARGV[at + 3]),
    most_day = tonumber(ARGV[at + 4]), most_month = tonumber(ARGV[at + 5]), watches = ARGV[at + 6] == '1',
    r = 0, t = 0, leases = 0, d = 0, m = 0, violations = 0,
  }
  local kept = redis.call('HMGET', KEYS[2 * i - 1], 'r', 't', 'day', 'd', 'month', 'm')
  scope.r = math.max(tonumber(kept[1]) or 0, now)
  scope.t = math.max(tonumber(kept[2]) or 0, now)
  if tonumber(kept[3]) == day then scope.d = tonumber(kept[4]) end
  if tonumber(kept[5]) == month then scope.m = tonumber(kept[6]) end
  if scope.r_inc >= 0 and scope.r + scope.r_inc - now > MINUTE then scope.violations = 1 end
  if scope.t_inc > 0 and scope.t + scope.t_inc - now > MINUTE then scope.violations = scope.violations + 2 end
  if scope.most_leases >= 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2 * i], '-inf', integer(now))
    scope.leases = redis.call('ZCARD', KEYS[2 * i])
    if scope.leases >= scope.most_leases then scope.violations = scope.violations + 4 end
  end
  if scope.most_day >= 0 and scope.d + cost > scope.most_day then scope.violations = scope.violations + 8 end
  if scope.most_month >= 0 and scope.m + cost > scope.most_month then scope.violations = scope.violations + 16 end
  if scope.violations > 0 and not scope.watches then is_refused = true end
  states[i] = scope
end

local reply = {is_refused and 0 or 1, now, day, month}
for i = 1, scopes do
  local scope = states[i]
  if not is_refused and scope.violations == 0 then
    local has_budget = scope.most_day >= 0 or scope.most_month >= 0
    local changed = {}
    if scope.r_inc >= 0 then
      scope.r = scope.r + scope.r_inc
      changed = {'r', integer(scope.r)}
    end
    if scope.t_inc > 0 then
      scope.t = scope.t + scope.t_inc
      changed[#changed + 1] = 't'
      changed[#changed + 1] = integer(scope.t)
    end
    if has_budget then
      scope.d = scope.d + cost
      scope.m = scope.m + cost
      local spent = {'day', integer(day), 'd', integer(scope.d), 'month', integer(month), 'm', integer(scope.m)}
      for _, word in ipairs(spent) do changed[#changed + 1] = word end
    end
    if #changed > 0 then
      redis.call('HSET', KEYS[2 * i - 1], unpack(changed))
      local ahead_ms = math.ceil((math.max(scope.r, scope.t) - now) / 1000)
      keep(KEYS[2 * i - 1], has_budget and BUDGET_LIFE_MS or ahead_ms + 60000)
    end
    if scope.most_leases >= 0 then
      redis.call('ZADD', KEYS[2 * i], integer(now + life), call)
      redis.call('PEXPIRE', KEYS[2 * i], integer(math.ceil(life / 1000) * 2))
      scope.leases = scope.leases + 1
    end
  end
  local at = #reply
  reply[at + 1], reply[at + 2], reply[at + 3] = scope.violations, scope.r - now, scope.t - now
  reply[at + 4], reply[at + 5], reply[at + 6] = scope.leases, scope.d, scope.m
end
return reply
