-- settings.lua: other settings, for the scripts that give them. Comes after flow.lua.
--
-- From ARGV[first] on: the settings, as stored; for each kind that has limits (their number is in the settings) its
-- name, and its key and limits in one string; number of weights; for each the share's key and weight in one string; number of
-- circuits that are set; for each its key and setting in one string.


-- Removes what facts say of limits, weights and settings of circuits; returns those by name.
local function forget_settings()
  local gone, had = {}, {}
  for _, name in ipairs(call("HKEYS", FACTS)) do
    local sort = byte(name)
    if sort == 103 or sort == 107 or sort == 108 or sort == 109 or sort == 119 then
      gone[#gone + 1] = name
      had[name] = call("HGET", FACTS, name)
    end
  end
  each("HDEL", FACTS, gone)
  few.kind_limits, few.kind_keys = {}, {}
  return had
end

-- The limit of concurrency that limits say; 0 for none.
local function concurrency_of(limits)
  return limits and #limits == 16 and unpacked(">I4", limits) or 0
end

-- Counts the leases of kinds that had no such limit, and no longer those of kinds that have none now.
local function count_kinds(had, has)
  for name, limits in pairs(had) do
    if byte(name) == 108 and concurrency_of(limits) > 0 and concurrency_of(has[name]) == 0 then
      local prefix = "rk" .. sub(name, 2)
      call("ZREMRANGEBYLEX", FLOW, "[" .. prefix, "[" .. prefix .. FAR)
    end
  end
  local fresh, any = {}, false
  for name, limits in pairs(has) do
    if byte(name) == 108 and concurrency_of(limits) > 0 and concurrency_of(had[name]) == 0 then
      fresh[sub(name, 2)], any = true, true
    end
  end
  if not any then return end
  local count = call("ZCARD", LEASES)
  -- In pages: jobs come with their envelopes.
  for first = 0, count - 1, 200 do
    local ids, changed = call("ZRANGE", LEASES, first, first + 199), {}
    local helds = fetch(HELD, ids)
    for i, job in ipairs(fetch(JOBS, ids)) do
      local held = is_held(helds[i]) and helds[i]
      local key = is_job(job) and held and few.limited_kind(sub(job, 51, 50 + byte(job, 50)))
      if key and fresh[key] then
        if not flow_of(job, held) then
          changed[#changed + 1] = ids[i]
          changed[#changed + 1] = sub(held, 1, 78) .. string.char(byte(held, 79) % 128 + 128) .. sub(held, 80, 83)
            .. flow_tail(few.flow_of_kind(key))
        end
        call("ZADD", FLOW, "0", "rk" .. key .. ids[i])
      end
    end
    each("HSET", HELD, changed)
  end
end

-- Weights have changed: of shares that have been something already.
local function weigh_anew(had, has)
  local function weight_of(value) return value and #value == 4 and max(unpacked(">I4", value), 1) or 1 end
  local done = {}
  for _, names in ipairs({ had, has }) do
    for name in pairs(names) do
      local old, new = weight_of(had[name]), weight_of(has[name])
      if byte(name) == 119 and old ~= new and not done[name] then
        few.weigh_anew(sub(name, 2), old, new)
        done[name] = true
      end
    end
  end
end

-- Lets lanes be looked at that wait for a limit which is another now; whether there are any.
local function look_again(had, has, keys_before, rates_before)
  local rates_now, found = key_interval .. " " .. key_burst, false
  local first = few.first_of("f")
  while first do
    local scope = sub(first, 2, 10)
    local sort, key, is_same = byte(scope), sub(scope, 2), true
    if sort == 99 then
      is_same = keys_before == key_concurrency
    elseif sort == 100 then
      is_same = rates_before == rates_now
    elseif sort == 107 or sort == 108 then
      is_same = had["l" .. key] == has["l" .. key]
    elseif sort == 120 then
      is_same = had["m" .. key] == has["m" .. key]
    end
    if not is_same then
      few.set_timer(scope, now)
      found = true
    end
    first = call("ZRANGE", FLOW, "(f" .. scope .. FAR, "(g", "BYLEX", "LIMIT", "0", "1")[1]
  end
  return found
end

-- Takes settings over; nil when the shard has newer ones, else whether lanes are to be looked at again.
local function take_settings(first)
  local given = ARGV[first]
  if unpacked(">I8", given) < version then return nil end
  local keys_before, rates_before = key_concurrency, key_interval .. " " .. key_burst
  local had, has = forget_settings(), {}
  read_settings(given)
  rest = sub(rest, 1, REST_LENGTH) .. given
  local place = first + 1
  for _ = 1, kinds_limited do
    local name, value = ARGV[place], ARGV[place + 1]
    has["k" .. name] = sub(value, 1, 8)
    has["l" .. sub(value, 1, 8)] = sub(value, 9)
    place = place + 2
  end
  for _, letter in ipairs({ "w", "m" }) do
    for i = 1, tonumber(ARGV[place]) do has[letter .. sub(ARGV[place + i], 1, 8)] = sub(ARGV[place + i], 9) end
    place = place + tonumber(ARGV[place]) + 1
  end
  if with_facts ~= 0 then has["g"] = sub(given, 1, 8) end
  weigh_anew(had, has)
  local facts = {}
  for name, value in pairs(has) do
    facts[#facts + 1] = name
    facts[#facts + 1] = value
  end
  each("HSET", FACTS, facts)
  count_kinds(had, has)
  local found = look_again(had, has, keys_before, rates_before)
  few.save_flow()
  return found
end
