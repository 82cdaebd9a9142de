-- flow/shares.lua: who has had how much: tags of shares, what they are charged, who is forgotten.

local shares, virtual, share_count, shares_before, virtual_known, facts_dirty = {}, 0, 0, 0, false, false
local rates, rates_dirty, running, circuits, bucket = {}, {}, {}, {}, nil
-- What is known within a script: places of lanes (false: not aside), tags of shares at places, who was found there, scopes that nobody waits for,
-- whether nobody waits for any, who is next for a kind, the first jobs of lanes, and dues of rates as stored. What is put off:
-- tags of shares to note, for jobs of a kind and where they stand, shares that are idle now, leases that count no longer and
-- those that do now, and jobs that have entered their lanes.
local seen = { places = {}, noted = {}, found = {}, unwanted = {}, running = {}, heads = {}, kinds = {}, firsts = {}, levels = {}, dues = {}, stale = {}, any_stale = false, gone = {}, counted = {},
  stored = {}, idle = {}, entered = {} }

local function load_virtual()
  if virtual_known then return end
  virtual_known = true
  if not is_active() then return end
  local value = call("HGET", FACTS, "v")
  if value and #value == 16 then virtual, share_count = unpacked(">I8I8", value) end
  shares_before = share_count
end

-- Looks up shares together, none of which is known yet.
local function read_shares(keys)
  load_virtual()
  local names, weights = {}, {}
  for i, key in ipairs(keys) do names[i] = "s" .. key end
  local values = is_active() and fetch(FACTS, names) or {}
  if with_facts ~= 0 or not configured then
    for i, key in ipairs(keys) do names[i] = "w" .. key end
    weights = is_active() and fetch(FACTS, names) or {}
  end
  for i, key in ipairs(keys) do
    local value, weight = values[i], weights[i]
    local known, had, slots, accrued, at, cost = value and #value == 40, 0, 0, 0, 0, 0
    if known then had, slots, accrued, at, cost = unpacked(">I8I8I8I8I8", value) end
    weight = weight and #weight == 4 and max(unpacked(">I4", weight), 1) or 1
    shares[key] = { known = known, had = had, slots = slots, accrued = accrued, at = at, cost = cost, weight = weight,
      dirty = false }
  end
end

-- A share as it is; `known` is false where it would begin.
local function share_of(key)
  if not shares[key] then read_shares({ key }) end
  return shares[key]
end

-- Looks up together what asking for these shares one by one would; names may be given twice.
function few.load_shares(keys)
  local wanted, met = {}, {}
  for _, key in ipairs(keys) do
    if not shares[key] and not met[key] then
      met[key] = true
      wanted[#wanted + 1] = key
    end
  end
  if #wanted > 0 then read_shares(wanted) end
end

-- A share, begun with this tag if it is new.
local function begun(key, level)
  local share = share_of(key)
  if not share.known then
    share.known, share.had, share.slots, share.accrued, share.at = true, level * share.weight, 0, 0, 0
    share.cost = 0
    share_count = share_count + 1
  end
  share.dirty, facts_dirty, active = true, true, true
  return share
end

local function tag_of(key)
  local share = share_of(key)
  if not share.known then return virtual end
  local cost, runs = share.slots * (share.cost == 0 and SHARE.cost or share.cost), share.accrued
  if now_ms > share.at then runs = runs + share.slots * (now_ms - share.at) end
  return floor((share.had + (runs > cost and runs or cost)) / share.weight)
end

-- Makes a share begin no earlier than this tag.
local function lift(key, level)
  local missing = share_of(key).known and max(level - tag_of(key), 0) or 0
  local share = begun(key, level)
  share.had = share.had + missing * share.weight
end

-- Those without keys are owed nothing for the time in which none of them waited.
function few.lift_unkeyed()
  if is_active() and share_of(NO_KEY).known and not first_of("s" .. NO_KEY) then lift(NO_KEY, virtual) end
end

-- What a share has had is worth as much by its new weight as by its old one.
function few.weigh_anew(key, old, new)
  local share = share_of(key)
  share.weight = new
  if share.known then
    share.had = floor(share.had / old) * new + floor(share.had % old * new / old)
    share.dirty, facts_dirty = true, true
  end
end

local function run_to_now(share)
  if now_ms > share.at then share.accrued = share.accrued + share.slots * (now_ms - share.at) end
  share.at = now_ms
end

-- Forgets shares that are idle for long enough, at most so many.
local function forget_shares(limit)
  local due = call("ZRANGE", IDLE, "-inf", text_of(now), "BYSCORE", "LIMIT", "0", limit)
  each("ZREM", IDLE, due)
  for _, key in ipairs(due) do
    local share = share_of(key)
    if share.known and share.slots == 0 and not first_of("s" .. key) then
      local debt = max(tag_of(key) - virtual, 0)
      local rested = max(now_ms - share.at, 0)
      if debt == 0 or rested >= SHARE.debt or (not first_of("j") and call("ZCARD", READY) == 0) then
        share.known, share.dirty, facts_dirty = false, true, true
        share_count = max(share_count - 1, 0)
      else
        call("ZADD", IDLE, text_of(now + min(max(debt, SHARE.idle), SHARE.debt) * 1000), key)
      end
    end
  end
  load_virtual()
  if share_count == 0 and virtual > 0 then virtual, facts_dirty = 0, true end
end

-- A share that neither waits nor runs is forgotten when the others have had as much, and not at once: what its jobs cost
-- is worth knowing.
local function let_go(key)
  local share = share_of(key)
  if share.known and share.slots == 0 then seen.idle[key] = true end
end

local function take_slots(key, weight)
  load_virtual()
  local share = begun(key, virtual)
  run_to_now(share)
  share.slots = share.slots + weight
end

local function charge(key, weight, claimed_at)
  load_virtual()
  local share = begun(key, virtual)
  local ran = max(now_ms - floor(claimed_at / 1000), 0)
  run_to_now(share)
  share.slots = max(share.slots - weight, 0)
  share.accrued = share.slots == 0 and 0 or max(share.accrued - ran * weight, 0)
  ran = max(ran, 1)
  share.had = share.had + ran * weight
  share.cost = share.cost == 0 and ran or max(floor((share.cost * 7 + ran) / 8), 1)
  if share.slots == 0 then seen.idle[key] = true end
end

-- The tag of whoever was chosen.
function few.advance(tag)
  if tag > virtual then virtual, facts_dirty = tag, true end
end

-- Writes what became of shares, rates and circuits.
local function save_flow()
  few.reckon_stale()
  local idle = {}
  for key in pairs(seen.idle) do
    idle[#idle + 1] = text_of(now + SHARE.idle * 1000)
    idle[#idle + 1] = key
  end
  each("ZADD", IDLE, idle)
  if bucket and bucket.dirty then
    call("HSET", FACTS, "y", pack(">I8I8", bucket.us, now))
    bucket.dirty = false
  end
  local dues, till = {}, next(rates_dirty) and BOUNDS.time()
  for scope in pairs(rates_dirty) do
    -- Those that are over by now are as if nothing had ever started. From Redis 7.2 on time stands still in a script: there none
    -- is.
    if rates[scope] > till then
      dues[#dues + 1] = text_of(rates[scope])
      dues[#dues + 1] = scope
    end
  end
  each("ZADD", RATES, dues)
  if not facts_dirty then return end
  load_virtual()
  local kept, gone = {}, {}
  for key, share in pairs(shares) do
    if share.dirty and share.known then
      kept[#kept + 1] = "s" .. key
      kept[#kept + 1] = pack(">I8I8I8I8I8", share.had, share.slots, share.accrued, share.at, share.cost)
    elseif share.dirty then
      gone[#gone + 1] = "s" .. key
    end
  end
  for key, circuit in pairs(circuits) do
    if circuit.dirty and circuit.known then
      kept[#kept + 1] = "x" .. key
      kept[#kept + 1] = pack(">BI4I8I4I4I8I8", circuit.state, circuit.row, circuit.from, circuit.calls, circuit.failed,
        circuit.since, circuit.probe_at) .. (circuit.state == 2 and circuit.id .. pack(">I8", circuit.fence) or NO_LEASE)
      call("ZADD", FLOW, "0", "x" .. key)
    elseif circuit.dirty then
      gone[#gone + 1] = "x" .. key
      call("ZREM", FLOW, "x" .. key)
    end
  end
  if share_count > 0 then
    kept[#kept + 1] = "v"
    kept[#kept + 1] = pack(">I8I8", virtual, share_count)
    if share_count ~= shares_before then
      kept[#kept + 1] = "p"
      kept[#kept + 1] = string.rep("\0", 65)
    end
  else
    gone[#gone + 1] = "v"
    gone[#gone + 1] = "p"
  end
  each("HDEL", FACTS, gone)
  each("HSET", FACTS, kept)
end
