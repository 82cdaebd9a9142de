-- settings.lua: other settings, for the scripts that give them. Comes after flow.lua.
--
-- From ARGV[first] on: the settings, as stored; for each kind that has limits (their number is in the settings) its
-- name, and its key and limits in one string; number of weights; for each the share's key and weight in one string; number of
-- circuits that are set; for each its key and setting in one string.

-- Removes what facts say of limits, weights and settings of circuits; the limits of concurrency that kinds had, by key.
local function forget_limits()
  local gone, had = {}, {}
  for _, name in ipairs(call("HKEYS", FACTS)) do
    local sort = byte(name)
    if sort == 108 then had[sub(name, 2)] = few.limits_of_kind(sub(name, 2))[1] > 0 end
    if sort == 107 or sort == 108 or sort == 109 or sort == 119 then gone[#gone + 1] = name end
  end
  each("HDEL", FACTS, gone)
  kind_limits, kind_keys = {}, {}
  return had
end

-- Counts the leases of kinds that had no such limit.
local function count_kinds(had)
  local ids = call("ZRANGE", LEASES, 0, -1)
  local helds, changed = fetch(HELD, ids), {}
  for i, job in ipairs(fetch(JOBS, ids)) do
    local held = is_held(helds[i]) and helds[i]
    local key = is_job(job) and held and limited_kind(sub(job, 51, 50 + byte(job, 50)))
    if key and not had[key] and few.limits_of_kind(key)[1] > 0 then
      if not flow_of(job, held) then
        changed[#changed + 1] = ids[i]
        changed[#changed + 1] = sub(held, 1, 78) .. string.char(byte(held, 79) % 128 + 128) .. sub(held, 80, 83)
          .. flow_of_kind(key)
      end
      call("ZADD", FLOW, 0, "rk" .. key .. ids[i])
    end
  end
  each("HSET", HELD, changed)
end

-- Takes settings over; false when the shard has newer ones.
local function take_settings(first)
  local given = ARGV[first]
  if unpacked(">I8", given) < version then return false end
  local had = forget_limits()
  read_settings(given)
  rest = sub(rest, 1, REST_LENGTH) .. given
  local facts, place = {}, first + 1
  for _ = 1, kinds_limited do
    local name, value = ARGV[place], ARGV[place + 1]
    facts[#facts + 1] = "k" .. name
    facts[#facts + 1] = sub(value, 1, 8)
    facts[#facts + 1] = "l" .. sub(value, 1, 8)
    facts[#facts + 1] = sub(value, 9)
    place = place + 2
  end
  for i = 1, tonumber(ARGV[place]) do
    facts[#facts + 1] = "w" .. sub(ARGV[place + i], 1, 8)
    facts[#facts + 1] = sub(ARGV[place + i], 9)
  end
  place = place + tonumber(ARGV[place]) + 1
  for i = 1, tonumber(ARGV[place]) do
    facts[#facts + 1] = "m" .. sub(ARGV[place + i], 1, 8)
    facts[#facts + 1] = sub(ARGV[place + i], 9)
  end
  each("HSET", FACTS, facts)
  if kinds_limited > 0 then count_kinds(had) end
  -- Every lane that waited is looked at again.
  for _, member in ipairs(call("ZRANGE", FLOW, "[b", "(c", "BYLEX")) do
    call("ZREM", FLOW, member)
    give_turn(sub(member, 27, 34), sub(member, 11, 18), sub(member, 19, 26))
  end
  save_flow()
  return true
end
