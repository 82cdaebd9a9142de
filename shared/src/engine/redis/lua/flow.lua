-- flow.lua: lanes, limits and shares, for the scripts that start, end or move jobs. Comes after shard.lua.
--
-- A lane stands at one place: that of its kind ("f" and the key of the kind) as long as nothing is known to hold it, else at
-- the scope that does. Places and scopes are a byte for their sort and a key of 8 bytes. Most lanes have few jobs and are
-- never held: until something holds one, each of its jobs stands for itself, so that those of many lanes are looked at
-- together. From then until it is empty a lane is *aside*: it has one turn for all of its jobs. FLOW holds all that has no
-- number, by its first byte; scores are u64 with 2^52 added, so that they are in order, tags u64:
--    j lane 8, score 8, id 16                      a job that waits in a lane
--    u kind 8, share 8, score 8, lane 8, id 16     the same of a lane that is not aside, where it is looked for; also of one
--                                                  that was put aside since, until somebody meets it
--    t place 9, share 8, score 8, lane 8, kind 8   where a lane that is aside stands, with the score of its first job
--    f place 9, tag 8, share 8                     the shares at a place, by their tag when it was last reckoned
--    s share 8, place 9                            the same, by share
--    r scope 9, id 16                              a lease that counts for a limit
--    x circuit 8                                   a circuit of which something is known
-- TIMERS  scopes, by when to look at them again, µs
-- IDLE    shares that neither wait nor run, by when they are forgotten, µs
-- RATES   scopes, by when the next unit of their rate is due, µs
-- FACTS   v: virtual time in ms u64, number of shares u64
--         p: as long as there are shares, 65 bytes without meaning: Redis searches a hash linearly of which no value is longer
--            than 64
--         t: when timers were looked at in µs u64, to within a second
--         s and a share: had u64, slots u64, accrued u64, at u64, cost u64
--         n, a share and a place: its tag there u64, as noted
--         b and a lane that is aside: the place where it stands, 9 bytes
--         y: what is in the bucket of the retry budget in µs u64, at u64
--         g: the version u64 of the settings of which the following are part
--         w and a share: its weight u32
--         k and the name of a kind: its key, 8 bytes
--         l and the key of a kind: limits, 16 bytes
-- Limits: concurrency u32 (0: none), interval in µs u64 (0: no rate), burst u32
--         x and the key of a circuit: state u8 (0 closed, 1 open, 2 half open), failures in a row u32, window began at in ms
--         u64, calls u32, failures u32, since u64, next probe at u64, the probe's id, its fence u64
--         m and the key of a circuit: mode u8 (0 its calls decide, 1 open, 2 closed), failures u32, window in ms u64,
--         percent u32, least calls u32, time between probes in µs u64
-- A job's flow: lane 8, kind 8, share 8, concurrency key 8, rate key 8, circuit 8, units u32, weight u32
-- Bytes are compared as numbers: Lua compares text by the server's locale.
local NO_KEY, FAR = string.rep("\0", 8), string.rep("\255", 48)
local function nothing() end
-- What this file has for others, and what is known to all of it. Its functions are there from the first time that one is
-- asked for: a script makes them anew at each call, and those that move no job with keys or limits are spared the time.
local few = { free_kinds = {}, scopes = {}, rules = {}, kind_limits = {}, kind_keys = {}, woken = false,
  save_flow = nothing, write_counts = nothing, write_entered = nothing }
local active

-- Whether there is anything but jobs without keys and limits: else little is looked at.
local function is_active()
  if active == nil then active = call("EXISTS", FLOW, FACTS, RATES) > 0 end
  return active
end

local function load_flow()
-- Of a share of which nothing is known, in ms; how long one is remembered at least and at most, in ms; how many are reckoned
-- anew at most to find out who is next; how old the note may get of when timers were looked at, in µs.
local SHARE = { cost = 1000, idle = 10000, debt = 3600000, reckoned = 200, looked = 1000000 }

-- A score as it stands in members; the last one is remembered.
local last_score, last_order
local function order_of(score)
  if score ~= last_score then last_score, last_order = score, pack(">I8", score + SCORE_OFFSET) end
  return last_order
end

-- Whether these bytes come before those.
function few.is_before(these, those)
  for i = 1, #these do
    local a, b = byte(these, i), byte(those, i)
    if a ~= b then return a < b end
  end
  return false
end

-- The first member of FLOW that begins so.
local function first_of(prefix)
  return call("ZRANGE", FLOW, "[" .. prefix, "[" .. prefix .. FAR, "BYLEX", "LIMIT", "0", "1")[1]
end

-- The first member after all that begin so, and before those that begin with `last`.
function few.first_after(prefix, last)
  return call("ZRANGE", FLOW, "(" .. prefix .. FAR, "(" .. last, "BYLEX", "LIMIT", "0", "1")[1]
end

-- Whether any lane may be chosen.
local function any_turn()
  return first_of("ff") ~= nil
end

-- Shares ----------------------------------------------------------------------------------------------------------

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

-- Limits ----------------------------------------------------------------------------------------------------------

-- Concurrency, interval and burst of a kind, by its key; zeros where there are none.
function few.limits_of_kind(key)
  local limits = few.kind_limits[key]
  if not limits then
    local value = kinds_limited > 0 and call("HGET", FACTS, "l" .. key)
    limits = { 0, 0, 0, limited = false }
    if value and #value == 16 then
      limits = { unpacked(">I4I8I4", value) }
      limits.limited = true
    end
    few.kind_limits[key] = limits
  end
  return limits
end

-- The key of a kind that is limited, by its name; false for others.
local function limited_kind(name)
  if kinds_limited == 0 then return false end
  local key = few.kind_keys[name]
  if key == nil then
    key = call("HGET", FACTS, "k" .. name) or false
    few.kind_keys[name] = key
  end
  return key
end

-- The flow of a job without keys, of a limited kind.
local function flow_of_kind(key)
  return "\0\0\0" .. sub(key, 4) .. key .. NO_KEY .. NO_KEY .. NO_KEY .. NO_KEY .. "\0\0\0\1\0\0\0\1"
end

-- What a lane may wait for, in the order in which they are asked.
local function scopes_of(flow)
  local scopes = few.scopes[flow]
  if scopes then return scopes end
  scopes = { "k" .. sub(flow, 9, 16), "l" .. sub(flow, 9, 16) }
  few.scopes[flow] = scopes
  if sub(flow, 25, 32) ~= NO_KEY then scopes[#scopes + 1] = "c" .. sub(flow, 25, 32) end
  if sub(flow, 33, 40) ~= NO_KEY then scopes[#scopes + 1] = "d" .. sub(flow, 33, 40) end
  if sub(flow, 41, 48) ~= NO_KEY then scopes[#scopes + 1] = "x" .. sub(flow, 41, 48) end
  return scopes
end

-- Most at once, or interval and burst, of a scope; nil where nothing holds it.
local function rule_of(scope)
  local sort = byte(scope)
  if sort == 99 then return key_concurrency > 0 and key_concurrency or nil end
  if sort == 100 then
    if key_interval == 0 then return nil end
    return nil, key_interval, key_burst
  end
  if sort == 113 then
    if queue_interval == 0 then return nil end
    return nil, queue_interval, queue_burst
  end
  if sort == 120 or sort == 102 then return nil end
  local limits = few.limits_of_kind(sub(scope, 2))
  if sort == 107 then return limits[1] > 0 and limits[1] or nil end
  if limits[2] == 0 then return nil end
  return nil, limits[2], limits[3]
end

-- When the next unit is due: not before now, and no later than a burst used up says. A shard that was opened with a ramp,
-- after a loss that is, has used up its bursts: what it still knows may be old.
local function due_of(scope, interval, burst)
  local due, latest = rates[scope], now + interval * burst
  if not due then
    if not seen.ramp then seen.ramp, seen.opened = unpacked(">I8I8", rest, 101) end
    local known = seen.dues[scope]
    if known == nil then known = call("ZSCORE", RATES, scope) end
    due = max(tonumber(known or 0), seen.ramp > 0 and seen.opened + interval * burst or 0)
    rates[scope] = due
  end
  if due < now then return now end
  return due < latest and due or latest
end

-- Whether so many leases may count for a scope: no more do than for all of its sort.
local function may_run(scope, most)
  if running[scope] then return true end
  local sort = byte(scope)
  if not seen.running[sort] then
    few.write_counts()
    seen.running[sort] = call("ZLEXCOUNT", FLOW, "[r" .. string.char(sort), "(r" .. string.char(sort + 1))
  end
  return seen.running[sort] >= most
end

-- Looks up together what asking these scopes one by one would.
function few.load_scopes(scopes)
  local wanted = {}
  for scope in pairs(scopes) do
    local most, interval = rule_of(scope)
    if most then
      if may_run(scope, most) then few.running_of(scope) end
    elseif interval and not rates[scope] and seen.dues[scope] == nil then
      wanted[#wanted + 1] = scope
    end
  end
  if #wanted == 0 then return end
  for i, due in ipairs(call("ZMSCORE", RATES, unpack(wanted))) do seen.dues[wanted[i]] = due end
end

function few.running_of(scope)
  if not running[scope] then
    few.write_counts()
    running[scope] = call("ZLEXCOUNT", FLOW, "[r" .. scope, "[r" .. scope .. FAR)
  end
  return running[scope]
end

-- Most at once, where that is what the scope limits.
function few.most_of(scope)
  return (rule_of(scope))
end

-- Circuits: as known and as set; of those that are not set, what CircuitSetting::default says.
local function circuit_of(key)
  local circuit = circuits[key]
  if circuit then return circuit end
  circuit = {
    known = false, state = 0, row = 0, from = 0, calls = 0, failed = 0, since = 0, probe_at = 0, id = "", fence = 0,
    mode = 0, failures = 5, window = 60000, percent = 50, calls_min = 20, probe = 5000000,
  }
  local values = is_active() and call("HMGET", FACTS, "x" .. key, "m" .. key) or {}
  local value, setting = values[1], values[2]
  if setting and #setting == 29 then
    circuit.mode, circuit.failures, circuit.window, circuit.percent, circuit.calls_min, circuit.probe =
      unpacked(">BI4I8I4I4I8", setting)
  end
  if value and #value == 61 then
    circuit.known = true
    circuit.state, circuit.row, circuit.from, circuit.calls, circuit.failed, circuit.since, circuit.probe_at =
      unpacked(">BI4I8I4I4I8I8", value)
    circuit.id, circuit.fence = sub(value, 38, 53), unpacked(">I8", value, 54)
  end
  circuits[key] = circuit
  return circuit
end

-- How far apart the jobs of a circuit start that a probe closed a moment ago, µs; nil otherwise.
local function ease_of(circuit)
  local closed_for = now - circuit.since
  if circuit.state ~= 0 or circuit.since == 0 or closed_for < 0 or closed_for >= 4000000 then return nil end
  return floor(1000000 / 4 ^ floor(closed_for / 1000000))
end

-- What a circuit says to a start, as held_by says it.
local function circuit_holds(key)
  local circuit = circuit_of(key)
  if circuit.mode > 0 then return circuit.mode == 1 end
  if circuit.state == 1 or ease_of(circuit) then return circuit.probe_at > now and circuit.probe_at end
  return circuit.state == 2
end

local function changed(circuit)
  circuit.known, circuit.dirty, facts_dirty, active = true, true, true, true
end

-- Whether this lease is the probe of its circuit.
function few.is_probe(flow, id, fence)
  local key = sub(flow, 41, 48)
  if key == NO_KEY then return false end
  local circuit = circuit_of(key)
  return circuit.state == 2 and circuit.id == id and circuit.fence == fence
end

-- A job of the circuit starts: the probe, if it is open.
local function start_probe(key, id, fence)
  local circuit = circuit_of(key)
  if circuit.mode ~= 0 then return end
  local apart = ease_of(circuit)
  if circuit.state == 1 then
    circuit.state, circuit.id, circuit.fence = 2, id, fence
    changed(circuit)
  elseif apart then
    circuit.probe_at = max(circuit.probe_at, now) + apart
    changed(circuit)
  end
end

-- false: free; true: full; a number: not before, µs.
local function held_by(scope, units)
  if byte(scope) == 120 then return circuit_holds(sub(scope, 2)) end
  local most, interval, burst = rule_of(scope)
  if most then
    return may_run(scope, most) and few.running_of(scope) >= most
  elseif interval then
    local from = due_of(scope, interval, burst) - (burst - min(units, burst)) * interval
    return from > now and from or false
  end
  return false
end

local function spend(scope, units)
  local _, interval, burst = rule_of(scope)
  if interval then
    rates[scope], rates_dirty[scope] = due_of(scope, interval, burst) + min(units, burst) * interval, true
  end
end

-- Those of scopes_of(flow) that may hold a lane, in their order.
function few.rules_of(flow)
  local scopes = few.rules[flow]
  if scopes then return scopes end
  scopes = {}
  local limits, concurrency, rate, circuit = few.limits_of_kind(sub(flow, 9, 16)), sub(flow, 25, 32), sub(flow, 33, 40), sub(flow, 41, 48)
  if limits[1] > 0 then scopes[1] = "k" .. sub(flow, 9, 16) end
  if limits[2] > 0 then scopes[#scopes + 1] = "l" .. sub(flow, 9, 16) end
  if key_concurrency > 0 and concurrency ~= NO_KEY then scopes[#scopes + 1] = "c" .. concurrency end
  if key_interval > 0 and rate ~= NO_KEY then scopes[#scopes + 1] = "d" .. rate end
  if circuit ~= NO_KEY then scopes[#scopes + 1] = "x" .. circuit end
  few.rules[flow] = scopes
  return scopes
end

-- Retries ---------------------------------------------------------------------------------------------------------

-- What is in the bucket of the retry budget: `us` of the floor, of which a retry costs an interval. It is full at first; of a
-- shard that was opened with a ramp, after a loss that is, it was empty then.
local function saved()
  if bucket then return bucket end
  local full, at = retries.interval * retries.burst, now
  local value, ramp, opened = call("HGET", FACTS, "y"), unpacked(">I8I8", rest, 101)
  local known, us = value and #value == 16, full
  if known then us, at = unpacked(">I8I8", value) end
  if ramp > 0 and (not known or at < opened) then us, at = 0, opened end
  if us < full then us = min(us + max(now - at, 0), full) end
  bucket = { us = min(us, full + BOUNDS.saved * retries.interval), known = known, dirty = false }
  return bucket
end

-- Says also that somebody may wait.
function few.note_bucket()
  local had = saved()
  if not had.known then had.known, had.dirty = true, true end
end

-- A job starts for the first time.
function few.credit_retries()
  if retries.interval == 0 then return end
  local had = saved()
  local us = min(had.us + floor(retries.interval * retries.percent / 100),
    retries.interval * (retries.burst + BOUNDS.saved))
  if us > had.us then had.us, had.known, had.dirty = us, true, true end
end

-- How many retries there are units for.
function few.retry_units()
  return floor(saved().us / retries.interval)
end

function few.spend_retries(count)
  if count > 0 then bucket.us, bucket.dirty, bucket.known = bucket.us - count * retries.interval, true, true end
end

-- Whether any retries may wait for the budget, also for one that is gone.
function few.may_be_behind()
  return retries.interval > 0 or (is_active() and call("HGET", FACTS, "y") ~= false)
end

-- The first of the retries that wait for the budget.
function few.behind(count)
  return call("ZRANGE", DELAYED, BOUNDS.behind, "+inf", "BYSCORE", "LIMIT", "0", count)
end

-- When the first of them may run, µs; nil if none waits.
function few.next_retry()
  if not few.may_be_behind() or not few.behind(1)[1] then return nil end
  return retries.interval == 0 and now or now + max(retries.interval - saved().us, 0)
end

function few.set_timer(scope, at)
  call("ZADD", TIMERS, "LT", text_of(at), scope)
end
local set_timer = few.set_timer

-- Places ----------------------------------------------------------------------------------------------------------

-- Writes which leases count for which scopes, as far as that was put off: what writes only a part of it must not have written
-- yet that the leases began or ended.
function few.write_counts()
  few.write_entered()
  if #seen.gone > 0 then each("ZREM", FLOW, seen.gone) end
  if #seen.counted > 0 then each("ZADD", FLOW, seen.counted) end
  seen.gone, seen.counted = {}, {}
end

-- Whether any lane is aside.
function few.any_aside()
  if seen.aside == nil then seen.aside = first_of("t") ~= nil end
  return seen.aside
end

-- Where a lane stands that is aside, or false.
function few.aside_at(lane)
  if seen.places[lane] == nil then seen.places[lane] = is_active() and call("HGET", FACTS, "b" .. lane) or false end
  return seen.places[lane]
end

-- Looks up together what asking for these lanes one by one would.
function few.load_places(lanes)
  local names, wanted = {}, {}
  for _, lane in ipairs(lanes) do
    if seen.places[lane] == nil then
      seen.places[lane] = false
      wanted[#wanted + 1] = lane
      names[#names + 1] = "b" .. lane
    end
  end
  if #wanted == 0 or not is_active() then return end
  for i, place in ipairs(fetch(FACTS, names)) do seen.places[wanted[i]] = place end
end

-- Notes where a lane stands that is aside; false: it is not.
function few.note_place(lane, place)
  seen.places[lane] = place
  if place then call("HSET", FACTS, "b" .. lane, place) else call("HDEL", FACTS, "b" .. lane) end
end

-- A job with this flow, where it is looked for as long as its lane is not aside.
function few.own_turn(flow, order, id)
  return "u" .. sub(flow, 9, 24) .. order .. sub(flow, 1, 8) .. id
end

-- The first own turns of a kind and share, at most so many, whether or not their lanes are aside.
function few.page_of(kind, share, count)
  local prefix = "[u" .. kind .. share
  -- No order begins with this byte.
  return call("ZRANGE", FLOW, prefix, prefix .. "\255", "BYLEX", "LIMIT", "0", text_of(count))
end

-- Some of the first jobs of a kind and share whose lanes are not aside, at most so many, as their own turns; and whether these
-- are all. Forgets those on the way whose lanes are: as many as a lane had jobs when it was put aside, once, at about 1 µs each.
-- `page`: what few.page_of has found, if it was asked.
function few.own_turns(kind, share, count, page)
  local found, last = {}, false
  if not few.any_aside() then
    page = page or few.page_of(kind, share, count)
    return page, #page < count
  end
  repeat
    local members, lanes, met = page or few.page_of(kind, share, count), {}, {}
    page = nil
    for i, member in ipairs(members) do lanes[i] = sub(member, 26, 33) end
    few.load_places(lanes)
    for i, member in ipairs(members) do
      local list = seen.places[lanes[i]] and met or found
      list[#list + 1] = member
    end
    each("ZREM", FLOW, met)
    last = #members < count
    count = min(count * 4, 400)
  until #found > 0 or last
  return found, last
end

-- Whether a share has a lane at a place.
function few.has_turn(place, share)
  return (byte(place) == 102 and few.own_turns(sub(place, 2), share, 1)[1] or first_of("t" .. place .. share)) ~= nil
end

-- The tag with which a share stands at a place, or false.
local function noted_of(share, place)
  if seen.nobody and byte(place) ~= 102 then return false end
  local name = share .. place
  local noted = seen.noted[name]
  if noted == nil then
    local value = is_active() and call("HGET", FACTS, "n" .. name)
    noted = value and #value == 8 and (unpacked(">I8", value)) or false
    seen.noted[name] = noted
  end
  return noted
end

-- Looks up together what asking for the tags of shares at places one by one would; the names are those of shares and places.
local function load_noted(names)
  local wanted, fields = {}, {}
  for _, name in ipairs(names) do
    if seen.noted[name] == nil then
      wanted[#wanted + 1] = name
      fields[#fields + 1] = "n" .. name
    end
  end
  if #wanted == 0 or not is_active() then return end
  for i, value in ipairs(fetch(FACTS, fields)) do
    seen.noted[wanted[i]] = value and #value == 8 and (unpacked(">I8", value)) or false
  end
end

-- The same, and whether they stand there: a tag without its share is left of what the store has lost.
function few.load_standing(names)
  load_noted(names)
  local noted, members = {}, {}
  for _, name in ipairs(names) do
    local tag = seen.noted[name]
    if tag and seen.stored[name] == nil and not seen.found[name] then
      noted[#noted + 1] = name
      members[#members + 1] = "f" .. sub(name, 9) .. pack(">I8", tag) .. sub(name, 1, 8)
    end
  end
  for first = 1, #members, 400 do
    for i, score in ipairs(call("ZMSCORE", FLOW, unpack(members, first, min(first + 399, #members)))) do
      local name = noted[first + i - 1]
      if score then seen.found[name] = true else seen.noted[name] = false end
    end
  end
end

-- The same, and looks up those of the shares that do not stand there, given in the order of the names.
function few.load_newcomers(names, keys)
  few.load_standing(names)
  local wanted = {}
  for i, name in ipairs(names) do
    if not seen.noted[name] then wanted[#wanted + 1] = keys[i] end
  end
  few.load_shares(wanted)
end

-- Writes the tags of shares at places that were put off.
local function write_tags()
  if not next(seen.stored) then return end
  seen.levels = {}
  local stored, gone, new, left, tags = seen.stored, {}, {}, {}, {}
  local gone_count, new_count, tag_count = 0, 0, 0
  seen.stored = {}
  for name, before in pairs(stored) do
    local share, place, tag = sub(name, 1, 8), sub(name, 9), seen.noted[name]
    seen.found[name] = tag and true or nil
    if before ~= tag then
      if before then
        gone_count = gone_count + 1
        gone[gone_count] = "f" .. place .. pack(">I8", before) .. share
      end
      if tag then
        local noted = pack(">I8", tag)
        new[new_count + 1], new[new_count + 2] = "0", "f" .. place .. noted .. share
        tags[tag_count + 1], tags[tag_count + 2] = "n" .. name, noted
        new_count, tag_count = new_count + 2, tag_count + 2
        if not before then
          new[new_count + 1], new[new_count + 2] = "0", "s" .. name
          new_count = new_count + 2
        end
      else
        gone_count = gone_count + 1
        gone[gone_count] = "s" .. name
        left[#left + 1] = "n" .. name
      end
    end
  end
  each("ZREM", FLOW, gone)
  each("ZADD", FLOW, new)
  each("HDEL", FACTS, left)
  each("HSET", FACTS, tags)
end

-- Notes that a kind has lanes which may be chosen, if it is asked for.
function few.add_kind(kind)
  if seen.kinds[kind] or (few.wanted and not few.wanted[kind]) then return end
  seen.kinds[kind] = true
  few.free_kinds[#few.free_kinds + 1] = kind
end

-- Has noted where a share stands at a place; false: it has no lanes there. Nobody may ask who is next before it is written. The
-- name is that of share and place, whose tag is known.
local function note_name(name, tag)
  local before = seen.noted[name]
  if before == tag then return end
  if seen.stored[name] == nil then seen.stored[name] = before end
  seen.noted[name] = tag
  if byte(name, 9) == 102 then
    local kind = sub(name, 10)
    seen.heads[kind] = nil
    few.add_kind(kind)
  end
end

local function note_later(share, place, tag)
  local before = noted_of(share, place)
  if before ~= tag then note_name(share .. place, tag) end
end

-- Has the tag noted that a share has now.
function few.note_tag(share, place)
  note_later(share, place, tag_of(share))
end

-- Notes at once where a share stands at a place.
local function set_noted(share, place, tag)
  note_later(share, place, tag)
  write_tags()
end

-- Where shares wait to be next for jobs of a kind.
function few.contested(kind)
  local limits = few.limits_of_kind(kind)
  if not limits.contested then
    limits.contested = limits.limited and { "f" .. kind, "k" .. kind, "l" .. kind } or { "f" .. kind }
  end
  return limits.contested
end

-- Where a share begins that is new among those that compete for a kind: where the others are.
function few.level_of(kind)
  local level = virtual
  write_tags()
  for _, place in ipairs(few.contested(kind)) do
    local first = first_of("f" .. place)
    local tag = first and unpacked(">I8", first, 11)
    if tag and tag < level then level = tag end
  end
  return level
end

-- A share has a lane at a place now. One that is new among those that compete begins where the others are: it is not owed for
-- the time in which it had nothing that could start. `later`: the caller has it written before anybody
-- asks who is next.
local function join(place, share, kind, later)
  active, seen.unwanted[place] = true, nil
  local name = share .. place
  if seen.stored[name] == nil and not seen.found[name] then few.load_standing({ name }) end
  if seen.noted[name] then return end
  few.reckon_stale()
  if byte(place) ~= 102 then seen.nobody = false end
  local sort = byte(place)
  if sort == 102 or sort == 107 or sort == 108 then
    load_virtual()
    local competes, level = false, later and seen.levels[kind] or nil
    for _, other in ipairs(few.contested(kind)) do competes = competes or noted_of(share, other) end
    if not competes then
      level = level or few.level_of(kind)
      lift(share, level)
      if later then seen.levels[kind] = level end
    end
    later = later and not competes
  end
  note_later(share, place, tag_of(share))
  if not later then write_tags() end
end

-- Puts a lane that is aside at a place.
local function stand(place, share, order, lane, kind)
  seen.aside = true
  call("ZADD", FLOW, "0", "t" .. place .. share .. order .. lane .. kind)
  join(place, share, kind)
end

-- The share may have no lane there any more.
local function part(place, share)
  if not few.has_turn(place, share) then set_noted(share, place, false) end
end

-- A lane that is aside does not stand there any more.
function few.unstand(place, share, order, lane, kind)
  if call("ZREM", FLOW, "t" .. place .. share .. order .. lane .. kind) == 1 then part(place, share) end
end

-- The lane has another first job.
function few.move_turn(flow, place, from, to)
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  seen.aside = true
  call("ZADD", FLOW, "0", "t" .. place .. share .. to .. lane .. kind)
  if from ~= to then call("ZREM", FLOW, "t" .. place .. share .. from .. lane .. kind) end
end

-- Has the tag that a share has now noted where it stands for jobs of a kind, before anybody asks who is next; that tag.
function few.refresh(share, kind)
  local stale, tag = seen.stale[kind], tag_of(share)
  if not stale then
    stale = {}
    seen.stale[kind] = stale
  end
  stale[share], seen.any_stale = tag, true
  return tag
end

function few.reckon_stale()
  if not seen.any_stale then return end
  local stale = seen.stale
  seen.stale, seen.any_stale = {}, false
  local names, tags, count = {}, {}, 0
  for kind, tags_of in pairs(stale) do
    for _, place in ipairs(few.contested(kind)) do
      -- At others nobody stands.
      if byte(place) == 102 or not seen.nobody then
        for share, tag in pairs(tags_of) do
          count = count + 1
          names[count], tags[count] = share .. place, tag
        end
      end
    end
  end
  load_noted(names)
  for i = 1, count do
    local name = names[i]
    if seen.noted[name] then note_name(name, tags[i]) end
  end
  write_tags()
end

-- The shares that are next at a place, at most so many, with their tags as noted.
function few.first_shares(place, count)
  local found = {}
  for i, member in ipairs(call("ZRANGE", FLOW, "[f" .. place, "[f" .. place .. FAR, "BYLEX", "LIMIT", "0", count)) do
    found[i] = { tag = unpacked(">I8", member, 11), key = sub(member, 19), member = member }
  end
  return found
end

-- Whether this share is before that one.
function few.is_next(this, that)
  return this.tag < that.tag or (this.tag == that.tag and few.is_before(this.key, that.key))
end

-- Tag and key of the share that is next at a place. Tags grow as jobs run: those before it are reckoned anew.
local function head(place)
  few.reckon_stale()
  local left, count = SHARE.reckoned, 1
  repeat
    local found = few.first_shares(place, count)
    if count > 1 then
      local keys, names = {}, {}
      for i, entry in ipairs(found) do keys[i], names[i] = entry.key, entry.key .. place end
      few.load_shares(keys)
      load_noted(names)
    end
    local moved
    for _, entry in ipairs(found) do
      if left == 0 then break end
      if moved and few.is_next(moved, entry) then
        write_tags()
        return moved.tag, moved.key
      end
      local tag = tag_of(entry.key)
      if tag == entry.tag then
        write_tags()
        return tag, entry.key
      end
      left = left - 1
      -- Left of what the store has lost.
      if noted_of(entry.key, place) ~= entry.tag then call("ZREM", FLOW, entry.member) end
      note_later(entry.key, place, tag)
      entry.tag = tag
      if not (moved and few.is_next(moved, entry)) then moved = entry end
    end
    write_tags()
    count = 30
  until not found[1] or left == 0
  local first = few.first_shares(place, 1)[1]
  if first then return first.tag, first.key end
end

-- The same for jobs of a kind that may be chosen.
function few.free_head(kind)
  local known = seen.heads[kind]
  if known == nil or (known and tag_of(known.share) ~= known.tag) then
    local tag, share = head("f" .. kind)
    known = share and { tag = tag, share = share } or false
    seen.heads[kind] = known
  end
  if known then return known.tag, known.share end
end

-- Fills few.free_kinds with the kinds that have lanes which may be chosen: of those asked for, if any are. Where more have
-- than are asked for it may name others of these, too.
function few.find_free_kinds(asked)
  few.reckon_stale()
  local first, left = first_of("ff"), asked and #asked or math.huge
  while first and left > 0 do
    few.add_kind(sub(first, 3, 10))
    left = left - 1
    first = few.first_after("ff" .. sub(first, 3, 10), "fg")
  end
  if not first then return end
  for _, kind in ipairs(asked) do few.add_kind(kind) end
end

-- The first lane of a share at a place: order, lane, kind, and the id of its first job unless it is aside. A share without
-- lanes does not stand there.
function few.first_turn(place, share)
  local turn = first_of("t" .. place .. share)
  local own = byte(place) == 102 and few.own_turns(sub(place, 2), share, 1)[1]
  if own and not (turn and few.is_before(sub(turn, 19, 34), sub(own, 18, 33))) then
    return sub(own, 18, 25), sub(own, 26, 33), sub(own, 2, 9), sub(own, 34)
  end
  if turn then return sub(turn, 19, 26), sub(turn, 27, 34), sub(turn, 35) end
  local first = first_of("f" .. place)
  if first and sub(first, 19) == share then
    call("ZREM", FLOW, first, "s" .. share .. place)
    seen.levels = {}
  end
  set_noted(share, place, false)
  seen.heads[sub(place, 2)] = nil
end

-- Whether nobody waits for any scope.
function few.nobody_waits()
  if seen.nobody == nil then
    local before = call("ZRANGE", FLOW, "[f", "(ff", "BYLEX", "LIMIT", "0", "1")[1]
    seen.nobody = not (before or call("ZRANGE", FLOW, "[fg", "(g", "BYLEX", "LIMIT", "0", "1")[1])
  end
  return seen.nobody
end

-- Whether nobody waits for this one, as far as that is known or soon found out.
function few.is_unwanted(scope)
  return few.nobody_waits() or seen.unwanted[scope]
end

-- Lets the lane be chosen that is next among those that wait for the scope, if it has a permit.
local function wake_lane(scope)
  if few.is_unwanted(scope) then return end
  few.reckon_stale()
  if not first_of("f" .. scope) then
    seen.unwanted[scope] = true
    return
  end
  local held = held_by(scope, 1)
  if held == true then return end
  if held then return set_timer(scope, held) end
  local _, share = head(scope)
  while share do
    local order, lane, kind = few.first_turn(scope, share)
    if order then
      few.note_place(lane, "f" .. kind)
      stand("f" .. kind, share, order, lane, kind)
      few.unstand(scope, share, order, lane, kind)
      few.woken = true
      return
    end
    _, share = head(scope)
  end
end

-- Puts the right turn of a lane that is aside in the place of one that is left of what the store has lost.
function few.mend_turn(place, share, order, lane, kind, right)
  few.unstand(place, share, order, lane, kind)
  few.note_place(lane, right and "f" .. kind or false)
  if right then stand("f" .. kind, share, right, lane, kind) end
end

-- A job of a lane was replaced: heals a lane that stands nowhere, or waits for what nobody may wake it for.
function few.mend_lane(flow)
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  local place, first = few.aside_at(lane) or "f" .. kind, first_of("j" .. lane)
  if first then
    local order = sub(first, 10, 17)
    if not few.aside_at(lane) then
      call("ZADD", FLOW, "0", few.own_turn(flow, order, sub(first, 18)))
      join(place, share, kind)
    elseif not noted_of(share, place) or not call("ZSCORE", FLOW, "t" .. place .. share .. order .. lane .. kind) then
      place = "f" .. kind
      few.note_place(lane, place)
      stand(place, share, order, lane, kind)
      few.woken = true
    end
    local tag = noted_of(share, place)
    if tag then call("ZADD", FLOW, "0", "f" .. place .. pack(">I8", tag) .. share, "0", "s" .. share .. place) end
  end
  if byte(place) ~= 102 then call("ZADD", TIMERS, "NX", text_of(now), place) end
end

-- Looks for timers that are lost, and for permits that are free though somebody waits for them.
function few.check_timers(limit)
  if not is_active() then return end
  for _, sort in ipairs({ "d", "l", "x", "c", "k" }) do
    local first = first_of("f" .. sort)
    while first and limit > 0 do
      local scope = sub(first, 2, 10)
      if not call("ZSCORE", TIMERS, scope) then
        local held = held_by(scope, 1)
        if held ~= true then set_timer(scope, held or now) end
      end
      limit = limit - 1
      first = few.first_after("f" .. scope, "f" .. string.char(byte(sort) + 1))
    end
  end
end

-- Circuits, what ends them ------------------------------------------------------------------------------------------

function few.open_again(key, probe_at)
  local circuit = circuit_of(key)
  circuit.state, circuit.probe_at = 1, probe_at
  changed(circuit)
  set_timer("x" .. key, probe_at)
end

-- From one probe to the next, µs: longer as time passes, and a minute at most unless the setting says more.
local function probe_later(key)
  local circuit = circuit_of(key)
  local open_for = circuit.known and max(now - circuit.since, 0) or 0
  local wait = min(max(floor(open_for / 64), circuit.probe), max(circuit.probe, 60000000))
  few.open_again(key, now + wait)
end

-- Whether the failure of this lease is none of its job's attempts.
function few.is_spared(flow, id, fence)
  return few.is_probe(flow, id, fence) and max(now - circuit_of(sub(flow, 41, 48)).since, 0) < 3600000000
end

local function forget_circuit(circuit)
  local known = circuit.known
  circuit.known, circuit.state, circuit.row, circuit.from, circuit.calls, circuit.failed = false, 0, 0, 0, 0, 0
  circuit.since, circuit.probe_at = 0, 0
  circuit.dirty, facts_dirty = circuit.dirty or known, facts_dirty or known
  return known
end

-- Forgets what is known of a circuit, and lets its jobs start; whether something was.
function few.close_circuit(key)
  local known = forget_circuit(circuit_of(key))
  wake_lane("x" .. key)
  return known
end

-- Nobody waits for a circuit: it is forgotten a window after its failures, or after a probe might have started.
local function tend_circuit(key)
  local circuit = circuit_of(key)
  if not circuit.known or circuit.state == 2 then return end
  local till = (circuit.from + circuit.window) * 1000
  if circuit.state == 1 then till = circuit.probe_at + circuit.window * 1000 end
  if till <= now then forget_circuit(circuit) else set_timer("x" .. key, till) end
end

-- A lease has ended of which the holder says how its dependency was: 0 nothing, 1 it answered, 2 it failed, 3 it failed and
-- the job's attempts are used up.
function few.note_dependency(flow, id, fence, told)
  local key = sub(flow, 41, 48)
  if key == NO_KEY then return end
  local circuit = circuit_of(key)
  if circuit.mode ~= 0 then return end
  if few.is_probe(flow, id, fence) then
    if told == 1 then
      -- Slowly: what has just come back is not to be hit by all that waited.
      forget_circuit(circuit)
      circuit.from, circuit.since, circuit.probe_at = now_ms, now, now
      changed(circuit)
      set_timer("x" .. key, (now_ms + circuit.window) * 1000)
      wake_lane("x" .. key)
    elseif told == 0 then
      few.open_again(key, now)
    else
      probe_later(key)
    end
    return
  end
  if told == 0 or circuit.state ~= 0 then return end
  if now_ms - circuit.from >= circuit.window or now_ms < circuit.from then
    if told == 1 then
      forget_circuit(circuit)
      return
    end
    circuit.from, circuit.calls, circuit.failed, circuit.row, circuit.since, circuit.probe_at = now_ms, 0, 0, 0, 0, 0
    set_timer("x" .. key, (now_ms + circuit.window) * 1000)
  end
  circuit.calls = circuit.calls + 1
  local opens = false
  if told == 1 then
    circuit.row = 0
  else
    circuit.row, circuit.failed = circuit.row + 1, circuit.failed + 1
    opens = (circuit.failures > 0 and circuit.row >= circuit.failures)
      or (circuit.percent > 0 and circuit.calls >= circuit.calls_min
        and circuit.failed * 100 >= circuit.percent * circuit.calls)
  end
  if opens then
    circuit.state, circuit.since, circuit.probe_at = 1, now, now + circuit.probe
    set_timer("x" .. key, circuit.probe_at)
  end
  changed(circuit)
end

-- A lease has ended and nobody says how: a probe is tried again after a while.
function few.lose_probe(flow, id, fence)
  if few.is_probe(flow, id, fence) then probe_later(sub(flow, 41, 48)) end
end

-- Lanes -----------------------------------------------------------------------------------------------------------

-- A lane was looked at, or is gone: those behind it get their chance, but not at the scope that holds it.
local function pass_on(flow, holds)
  for _, scope in ipairs(scopes_of(flow)) do
    if scope ~= holds then wake_lane(scope) end
  end
end

-- Puts a lane that may be chosen aside until the scope has a permit.
local function block(scope, held, flow, order)
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  -- First: among those that compete it is no newcomer.
  stand(scope, share, order, lane, kind)
  few.note_place(lane, scope)
  call("ZREM", FLOW, "tf" .. kind .. share .. order .. lane .. kind)
  part("f" .. kind, share)
  if held ~= true then set_timer(scope, held) end
end

-- Writes which jobs have entered their lanes, and where their shares stand, as far as that was put off.
function few.write_entered()
  if #seen.entered > 0 then each("ZADD", FLOW, seen.entered) end
  seen.entered = {}
  write_tags()
end

-- Puts a job that is in no order into its lane.
local function enter_lane(id, flow, score)
  local lane, kind, share, order = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24), order_of(score)
  local place, member = few.aside_at(lane), "j" .. lane .. order .. id
  local before = place and (seen.firsts[lane] or first_of("j" .. lane))
  if before then
    call("ZADD", FLOW, "0", member)
    if few.is_before(order .. id, sub(before, 10)) then
      few.move_turn(flow, place, sub(before, 10, 17), order)
    else
      member = before
    end
    seen.firsts[lane] = member
    if byte(place) == 102 then few.woken = true end
    return
  end
  -- Left of what the store has lost: lanes that are aside have jobs.
  if place then few.note_place(lane, false) end
  local entered = seen.entered
  local count = #entered
  entered[count + 1], entered[count + 2], entered[count + 3], entered[count + 4] = "0", member, "0",
    "u" .. kind .. share .. order .. lane .. id
  if not few.defers then few.write_entered() end
  join("f" .. kind, share, kind, few.defers)
  few.woken = true
end

-- Takes a job out of its lane, if it is there. A lane that is empty then passes on what it was next for.
local function leave_lane(id, flow, score)
  local lane, kind, share, order = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24), order_of(score)
  seen.firsts[lane] = nil
  if call("ZREM", FLOW, "j" .. lane .. order .. id, few.own_turn(flow, order, id)) == 0 then return end
  local place = few.aside_at(lane)
  if not place then
    part("f" .. kind, share)
    if not few.unwanted(scopes_of(flow)) and not first_of("j" .. lane) then pass_on(flow) end
    return let_go(share)
  end
  local next = first_of("j" .. lane)
  if not next then
    few.note_place(lane, false)
    few.unstand(place, share, order, lane, kind)
    pass_on(flow)
  elseif few.is_before(order .. id, sub(next, 10)) then
    few.move_turn(flow, place, order, sub(next, 10, 17))
  end
  let_go(share)
end

-- Counts a lease for a scope.
function few.count(scope, id)
  local counted, member = seen.counted, "r" .. scope .. id
  if few.defers then
    counted[#counted + 1] = "0"
    counted[#counted + 1] = member
  else
    call("ZADD", FLOW, "0", member)
  end
  if running[scope] then running[scope] = running[scope] + 1 end
  local sort = byte(scope)
  if seen.running[sort] then seen.running[sort] = seen.running[sort] + 1 end
end

-- Counts it no longer, and lets another have its chance.
function few.uncount(scope, id)
  if few.defers and few.is_unwanted(scope) and not running[scope] then
    seen.gone[#seen.gone + 1] = "r" .. scope .. id
    return
  end
  if call("ZREM", FLOW, "r" .. scope .. id) == 0 then return end
  if running[scope] then running[scope] = running[scope] - 1 end
  wake_lane(scope)
end

-- Jobs that wait in a lane behind its first, that one included.
function few.jobs_of(lane, count)
  return call("ZRANGE", FLOW, "[j" .. lane, "[j" .. lane .. FAR, "BYLEX", "LIMIT", "0", count)
end

-- Whether nobody waits for any of these scopes: then no start gives anybody a chance.
function few.unwanted(scopes)
  if few.nobody_waits() then return true end
  for _, scope in ipairs(scopes) do
    if not few.is_unwanted(scope) then
      if first_of("f" .. scope) then return false end
      seen.unwanted[scope] = true
    end
  end
  return true
end

-- Who is next for jobs of a kind -----------------------------------------------------------------------------------------

-- The shares that are next, at most so many and the first one last, with their tags as noted; who comes after them, or nil;
-- the tag of who is first of other kinds; and who that is.
function few.next_shares(kind, count)
  few.reckon_stale()
  local place, found, keys, others_tag, others = "f" .. kind, {}, {}, math.huge, {}
  local members = call("ZRANGE", FLOW, "[f" .. place, "[f" .. place .. FAR, "BYLEX", "LIMIT", "0", count + 1)
  local function entry_of(member)
    return { tag = unpacked(">I8", member, 11), key = sub(member, 19), at = 1, page = false, before = false, jobs = {},
      members = {}, is_all = false, order = false, aside = false }
  end
  for i = min(#members, count), 1, -1 do
    local entry = entry_of(members[i])
    local name = entry.key .. place
    if seen.noted[name] == nil then seen.noted[name] = entry.tag end
    -- Another is left of what the store has lost.
    if seen.noted[name] == entry.tag then found[#found + 1], keys[#keys + 1] = entry, entry.key end
  end
  few.load_shares(keys)
  for _, other in ipairs(few.free_kinds) do
    local first = other ~= kind and first_of("ff" .. other)
    if first then
      others_tag = min(others_tag, (unpacked(">I8", first, 11)))
      others[sub(first, 19)] = true
    end
  end
  return found, members[count + 1] and entry_of(members[count + 1]), others_tag, others
end

-- Finds out which jobs of a share are next, at most so many: of the lane that is aside, or of those that are not, of which
-- `page` has the first ones, if it was asked. `before`: the order of who is next of the others of the share, if any; `is_all`: those not found
-- come after nobody.
function few.find_jobs(entry, kind, any_aside, count, page)
  local share = entry.key
  local own, is_last = few.own_turns(kind, share, count, page)
  local first, rival
  if any_aside then
    local turns = "tf" .. kind .. share
    turns = call("ZRANGE", FLOW, "[" .. turns, "[" .. turns .. FAR, "BYLEX", "LIMIT", "0", 2)
    first, rival = turns[1], turns[2]
    if first and own[1] and not few.is_before(sub(first, 19, 34), sub(own[1], 18, 33)) then first, rival = nil, first end
  end
  entry.before = rival and sub(rival, 19, 26) or false
  entry.members, entry.is_all = own, is_last and not first and not rival
  if not first then return end
  entry.order, entry.aside = sub(first, 19, 26), sub(first, 27, 34)
  entry.members = few.jobs_of(entry.aside, count)
  -- Another is left of what the store has lost.
  if entry.members[1] and sub(entry.members[1], 10, 17) ~= entry.order then entry.members = {} end
  local alone = own[1] and sub(own[1], 18, 25)
  if alone and not (rival and few.is_before(entry.before, alone)) then entry.before = alone end
end

-- The job of a share with this number among those found, or nil.
function few.job_of(entry, number)
  local job, member = entry.jobs[number], entry.members[number]
  if job or not member then return job end
  if entry.aside then
    job = { order = sub(member, 10, 17), lane = entry.aside, id = sub(member, 18), share = entry.key, looked = false, job = false,
      held = false, flow = false }
  else
    job = { order = sub(member, 18, 25), lane = sub(member, 26, 33), id = sub(member, 34), share = entry.key, looked = false,
      job = false, held = false, flow = false }
  end
  entry.jobs[number] = job
  return job
end

-- Takes a job out of a lane that is none of it.
function few.take_stray(share, kind, order, lane, id)
  seen.firsts[lane] = nil
  call("ZREM", FLOW, "j" .. lane .. order .. id, "u" .. kind .. share .. order .. lane .. id)
end

-- The jobs of these shares that were looked at are leased, and nobody waits for anything that they need: takes them out of
-- their lanes.
function few.cut(entries, kind)
  local gone, count, place = {}, 0, "f" .. kind
  for _, entry in ipairs(entries) do
    for i = 1, entry.at - 1 do
      local job, member = entry.jobs[i], entry.members[i]
      gone[count + 1] = member
      if entry.aside then
        -- One from before that may be there still.
        gone[count + 2] = "u" .. kind .. entry.key .. job.order .. job.lane .. job.id
      else
        gone[count + 2] = "j" .. job.lane .. job.order .. job.id
      end
      count = count + 2
    end
  end
  each("ZREM", FLOW, gone)
  for _, entry in ipairs(entries) do
    local share, aside = entry.key, entry.at > 1 and entry.aside
    if aside then
      seen.firsts[aside] = nil
      local next = first_of("j" .. aside)
      if not next then
        few.note_place(aside, false)
        few.unstand(place, share, entry.order, aside, kind)
      elseif entry.order ~= sub(next, 10, 17) then
        few.move_turn(aside .. kind .. share, place, entry.order, sub(next, 10, 17))
      end
    elseif entry.at > 1 and entry.at > #entry.members then
      if entry.is_all or not few.has_turn(place, share) then note_later(share, place, false) end
    end
  end
  few.reckon_stale()
  write_tags()
end

-- Counts a lease for its limits and its share, of which it returns the tag; `flow` is nil for a job without keys.
local function start_flow(id, fence, flow)
  if not flow then
    load_virtual()
    if share_count > 0 then take_slots(NO_KEY, 1) end
    return
  end
  if sub(flow, 41, 48) ~= NO_KEY then start_probe(sub(flow, 41, 48), id, fence) end
  local kind, share, key = sub(flow, 9, 16), sub(flow, 17, 24), sub(flow, 25, 32)
  if few.limits_of_kind(kind)[1] > 0 then few.count("k" .. kind, id) end
  if key ~= NO_KEY then few.count("c" .. key, id) end
  take_slots(share, (unpacked(">I4", flow, 53)))
  return few.refresh(share, kind)
end

-- The lease of a held has ended; `flow` is nil for a job without keys.
local function end_flow(id, flow, held)
  local claimed_at = unpacked(">i8", held, 19)
  if not flow then
    if share_of(NO_KEY).known then charge(NO_KEY, 1, claimed_at) end
    return
  end
  few.lose_probe(flow, id, unpacked(">I8", held, 47))
  local kind, share, key = sub(flow, 9, 16), sub(flow, 17, 24), sub(flow, 25, 32)
  charge(share, unpacked(">I4", flow, 53), claimed_at)
  few.refresh(share, kind)
  if few.limits_of_kind(kind)[1] > 0 then few.uncount("k" .. kind, id) end
  if key ~= NO_KEY then few.uncount("c" .. key, id) end
end

-- The job with the flow of its kind, if that is limited and it has none.
local function with_flow(job)
  if kinds_limited == 0 or byte(job, 37) > 127 then return job end
  local length = byte(job, 50)
  local key = limited_kind(sub(job, 51, 50 + length))
  if not key then return job end
  return sub(job, 1, 36) .. string.char(byte(job, 37) + 128) .. sub(job, 38, 50 + length) .. flow_tail(flow_of_kind(key))
    .. sub(job, 51 + length)
end

-- Takes a job out of its lane, or ends its lease; `held` is false if it has none, and `job` if it is lost.
local function take_out(id, job, held)
  local flow = (held or job) and flow_of(job, held)
  if held and byte(held, 1) == LEASED then
    end_flow(id, flow, held)
  elseif flow and (not held or byte(held, 1) == WAITING) then
    leave_lane(id, flow, (unpacked(">i8", held or job, held and 59 or 17)))
  end
end

-- Does what is due: at most so much of each sort.
local function fire_timers(limit)
  if not is_active() then return end
  -- Forgotten: rates that are as if nothing had ever started.
  call("ZREMRANGEBYSCORE", RATES, "-inf", text_of(now))
  forget_shares(limit)
  if not call("ZRANGE", TIMERS, 0, 0)[1] then return end
  local value = call("HGET", FACTS, "t")
  local since = now - (value and #value == 8 and unpacked(">I8", value) or 0)
  if since < 0 then
    -- The clock was set back: who waits for an instant that is far off now is looked at.
    local all = {}
    for _, scope in ipairs(call("ZRANGE", TIMERS, 0, -1)) do
      all[#all + 1] = text_of(now)
      all[#all + 1] = scope
    end
    each("ZADD", TIMERS, all)
  end
  if since < 0 or since >= SHARE.looked then call("HSET", FACTS, "t", pack(">I8", now)) end
  local due = call("ZRANGE", TIMERS, "-inf", text_of(now), "BYSCORE", "LIMIT", "0", limit)
  each("ZREM", TIMERS, due)
  for _, scope in ipairs(due) do
    if byte(scope) == 120 and not first_of("f" .. scope) then tend_circuit(sub(scope, 2)) else wake_lane(scope) end
  end
end

few.any_turn, few.flow_of_kind, few.limited_kind, few.with_flow, few.take_out, few.enter_lane, few.leave_lane, few.start_flow, few.end_flow, few.fire_timers, few.save_flow, few.first_of, few.order_of, few.tag_of, few.scopes_of, few.held_by, few.spend, few.block, few.pass_on =
  any_turn, flow_of_kind, limited_kind, with_flow, take_out, enter_lane, leave_lane, start_flow, end_flow, fire_timers, save_flow, first_of, order_of, tag_of, scopes_of, held_by, spend, block, pass_on
end

setmetatable(few, { __index = function(_, name)
  setmetatable(few, nil)
  load_flow()
  return few[name]
end })
