-- flow.lua: lanes, limits and shares, for the scripts that start, end or move jobs. Comes after shard.lua.
--
-- FLOW holds all that has no number, by its first byte; scopes are a byte for their sort and a key of 8 bytes, scores
-- u64 with 2^52 added, so that they are in order:
--    j lane 8, score 8, id 16             a job that waits in a lane
--    t share 8, score 8, lane 8           a lane that nothing is known to hold, with the score of its first job
--    b scope 9, score 8, lane 8, share 8  a lane that a limit holds
--    r scope 9, id 16                     a lease that counts for a limit
-- FAIR    shares that have turns, by their tag when it was last reckoned
-- TIMERS  scopes, by when to look at them again, µs
-- IDLE    shares that neither wait nor run, by when they are forgotten, µs
-- RATES   scopes, by when the next unit of their rate is due, µs
-- FACTS   v: virtual time in ms u64, number of shares u64
--         s and a share: had u64, slots u64, accrued u64, at u64, cost u64, waiting u64
--         w and a share: its weight u32
--         k and the name of a kind: its key, 8 bytes
--         l and the key of a kind: limits, 16 bytes
-- Limits: concurrency u32 (0: none), interval in µs u64 (0: no rate), burst u32
--         x and the key of a circuit: state u8 (0 closed, 1 open, 2 half open), failures in a row u32, window began at in ms
--         u64, calls u32, failures u32, since u64, next probe at u64, the probe's id, its fence u64
--         m and the key of a circuit: mode u8 (0 its calls decide, 1 open, 2 closed), failures u32, window in ms u64,
--         percent u32, least calls u32, time between probes in µs u64
-- A job's flow: lane 8, kind 8, share 8, concurrency key 8, rate key 8, circuit 8, units u32, weight u32
local NO_KEY, FAR = string.rep("\0", 8), string.rep("\255", 33)
local flow_woken, fair_may_be, kind_limits, kind_keys = false, false, {}, {}
-- Only what other scripts use stays in sight: Lua has room for 200 names at one time.
local is_active, any_turn, flow_of_kind, limited_kind, with_flow, take_out, enter_lane, leave_lane, start_flow, end_flow, fire_timers, save_flow
local first_of, order_of, tag_of, set_tag, drop_fair, advance, scopes_of, held_by, spend, block, pass_on, give_turn
-- What few scripts use.
local few = {}
do
local COST_UNKNOWN, SHARE_IDLE_MS = 1000, 10000

function order_of(score)
  return pack(">I8", score + SCORE_OFFSET)
end

-- The first member of FLOW that begins so.
function first_of(prefix)
  return call("ZRANGE", FLOW, "[" .. prefix, "[" .. prefix .. FAR, "BYLEX", "LIMIT", 0, 1)[1]
end

function any_turn()
  return first_of("t") ~= nil
end

-- Shares ----------------------------------------------------------------------------------------------------------

local shares, virtual, share_count, virtual_known, facts_dirty = {}, 0, 0, false, false
local rates, rates_dirty, running, circuits = {}, {}, {}, {}

local active

-- Whether there is anything but jobs without keys and limits: else little is looked at.
function is_active()
  if active == nil then active = call("EXISTS", FACTS, RATES) > 0 end
  return active
end

local function load_virtual()
  if virtual_known then return end
  virtual_known = true
  if not is_active() then return end
  local value = call("HGET", FACTS, "v")
  if value and #value == 16 then virtual, share_count = unpacked(">I8I8", value) end
end

-- A share as it is; `known` is false where it would begin.
local function share_of(key)
  local share = shares[key]
  if share then return share end
  load_virtual()
  share = { key = key, known = false, slots = 0, accrued = 0, at = 0, cost = 0, waiting = 0, dirty = false }
  local values = is_active() and call("HMGET", FACTS, "s" .. key, "w" .. key) or {}
  share.weight = values[2] and #values[2] == 4 and max(unpacked(">I4", values[2]), 1) or 1
  if values[1] and #values[1] == 48 then
    share.known = true
    share.had, share.slots, share.accrued, share.at, share.cost, share.waiting = unpacked(">I8I8I8I8I8I8", values[1])
  end
  shares[key] = share
  return share
end

-- The same, begun if it is new.
local function begun(key)
  local share = share_of(key)
  if not share.known then
    share.known, share.had, share.slots, share.accrued, share.at = true, virtual * share.weight, 0, 0, 0
    share.cost, share.waiting = 0, 0
    share_count = share_count + 1
  end
  share.dirty, facts_dirty, active = true, true, true
  return share
end

function tag_of(key)
  local share = share_of(key)
  if not share.known then return virtual end
  local cost = share.cost == 0 and COST_UNKNOWN or share.cost
  local runs = share.accrued + share.slots * max(now_ms - share.at, 0)
  return floor((share.had + max(runs, share.slots * cost)) / share.weight)
end

function set_tag(key)
  fair_may_be = true
  call("ZADD", FAIR, text_of(tag_of(key)), key)
end

local function refresh_fair(key)
  call("ZADD", FAIR, "XX", text_of(tag_of(key)), key)
end

local function enter_fair(key)
  local tag = tag_of(key)
  local missing = max(virtual - tag, 0)
  local share = begun(key)
  share.had = share.had + missing * share.weight
  set_tag(key)
end

function drop_fair(key)
  if not first_of("t" .. key) then call("ZREM", FAIR, key) end
end

local function run_to_now(share)
  share.accrued = share.accrued + share.slots * max(now_ms - share.at, 0)
  share.at = now_ms
end

-- Forgets shares that are idle for long enough, at most so many.
local function forget_shares(limit)
  for _, key in ipairs(call("ZRANGE", IDLE, "-inf", text_of(now), "BYSCORE", "LIMIT", 0, limit)) do
    call("ZREM", IDLE, key)
    local share = share_of(key)
    if share.known and share.waiting == 0 and share.slots == 0 then
      share.known, share.dirty, facts_dirty = false, true, true
      share_count = max(share_count - 1, 0)
    end
  end
  load_virtual()
  if share_count == 0 then virtual = 0 end
end

-- A share that neither waits nor runs is forgotten when the others have had as much, and not at once: what its jobs cost
-- is worth knowing.
local function let_go(key)
  local share = share_of(key)
  if not share.known or share.waiting > 0 or share.slots > 0 then return end
  local ahead = max(tag_of(key) - virtual, SHARE_IDLE_MS)
  call("ZADD", IDLE, text_of(now + ahead * 1000), key)
end

local function take_slots(key, weight)
  local share = begun(key)
  run_to_now(share)
  share.slots = share.slots + weight
  refresh_fair(key)
end

local function charge(key, weight, claimed_at)
  local share = begun(key)
  local ran = max(now_ms - floor(claimed_at / 1000), 0)
  run_to_now(share)
  share.slots = max(share.slots - weight, 0)
  share.accrued = share.slots == 0 and 0 or max(share.accrued - ran * weight, 0)
  ran = max(ran, 1)
  share.had = share.had + ran * weight
  share.cost = share.cost == 0 and ran or max(floor((share.cost * 7 + ran) / 8), 1)
  refresh_fair(key)
  let_go(key)
end

-- Writes what became of shares and rates.
function save_flow()
  for scope in pairs(rates_dirty) do call("ZADD", RATES, text_of(rates[scope]), scope) end
  if not facts_dirty then return end
  load_virtual()
  local kept, gone = {}, {}
  for key, share in pairs(shares) do
    if share.dirty and share.known then
      kept[#kept + 1] = "s" .. key
      kept[#kept + 1] = pack(">I8I8I8I8I8I8", share.had, share.slots, share.accrued, share.at, share.cost, share.waiting)
    elseif share.dirty then
      gone[#gone + 1] = "s" .. key
    end
  end
  for key, circuit in pairs(circuits) do
    if circuit.dirty and circuit.known then
      kept[#kept + 1] = "x" .. key
      kept[#kept + 1] = pack(">BI4I8I4I4I8I8", circuit.state, circuit.row, circuit.from, circuit.calls, circuit.failed,
        circuit.since, circuit.probe_at) .. (circuit.state == 2 and circuit.id .. pack(">I8", circuit.fence) or NO_LEASE)
    elseif circuit.dirty then
      gone[#gone + 1] = "x" .. key
    end
  end
  if share_count > 0 then
    kept[#kept + 1] = "v"
    kept[#kept + 1] = pack(">I8I8", virtual, share_count)
  else
    gone[#gone + 1] = "v"
  end
  each("HDEL", FACTS, gone)
  each("HSET", FACTS, kept)
end

-- Limits ----------------------------------------------------------------------------------------------------------

-- Concurrency, interval and burst of a kind, by its key; zeros where there are none.
function few.limits_of_kind(key)
  local limits = kind_limits[key]
  if not limits then
    local value = kinds_limited > 0 and call("HGET", FACTS, "l" .. key)
    limits = { 0, 0, 0 }
    if value and #value == 16 then limits = { unpacked(">I4I8I4", value) } end
    kind_limits[key] = limits
  end
  return limits
end

-- The key of a kind that is limited, by its name; false for others.
function limited_kind(name)
  if kinds_limited == 0 then return false end
  local key = kind_keys[name]
  if key == nil then
    key = call("HGET", FACTS, "k" .. name) or false
    kind_keys[name] = key
  end
  return key
end

-- The flow of a job without keys, of a limited kind.
function flow_of_kind(key)
  return key .. key .. NO_KEY .. NO_KEY .. NO_KEY .. NO_KEY .. "\0\0\0\1\0\0\0\1"
end

-- What a lane may wait for, in the order in which they are asked.
function scopes_of(flow)
  local scopes = { "k" .. sub(flow, 9, 16), "l" .. sub(flow, 9, 16) }
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
  if sort == 120 then return nil end
  local limits = few.limits_of_kind(sub(scope, 2))
  if sort == 107 then return limits[1] > 0 and limits[1] or nil end
  if limits[2] == 0 then return nil end
  return nil, limits[2], limits[3]
end

-- When the next unit is due: not before now, and no later than a burst used up says.
local function due_of(scope, interval, burst)
  local due = rates[scope]
  if not due then
    due = tonumber(call("ZSCORE", RATES, scope) or unpacked(">I8", rest, 109) + interval * burst)
    rates[scope] = due
  end
  return min(max(due, now), now + interval * burst)
end

function few.running_of(scope)
  running[scope] = running[scope] or call("ZLEXCOUNT", FLOW, "[r" .. scope, "[r" .. scope .. FAR)
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

-- What a circuit says to a start, as held_by says it.
local function circuit_holds(key)
  local circuit = circuit_of(key)
  if circuit.mode > 0 then return circuit.mode == 1 end
  if circuit.state == 1 then return circuit.probe_at > now and circuit.probe_at end
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
  if circuit.mode == 0 and circuit.state == 1 then
    circuit.state, circuit.id, circuit.fence = 2, id, fence
    changed(circuit)
  end
end

-- false: free; true: full; a number: not before, µs.
function held_by(scope, units)
  if byte(scope) == 120 then return circuit_holds(sub(scope, 2)) end
  local most, interval, burst = rule_of(scope)
  if most then
    return few.running_of(scope) >= most
  elseif interval then
    local from = due_of(scope, interval, burst) - (burst - min(units, burst)) * interval
    return from > now and from or false
  end
  return false
end

function spend(scope, units)
  local _, interval, burst = rule_of(scope)
  if interval then
    rates[scope], rates_dirty[scope] = due_of(scope, interval, burst) + min(units, burst) * interval, true
  end
end

local function set_timer(scope, at)
  call("ZADD", TIMERS, "LT", text_of(at), scope)
end

-- Lanes -----------------------------------------------------------------------------------------------------------

function give_turn(share, order, lane)
  local back = not first_of("t" .. share)
  call("ZADD", FLOW, 0, "t" .. share .. order .. lane)
  if back then enter_fair(share) end
end

-- Lets the first lane that waits for the scope be chosen, if it has a permit.
local function wake_lane(scope)
  local next = first_of("b" .. scope)
  if not next then return end
  local held = held_by(scope, 1)
  if held == true then return end
  if held then return set_timer(scope, held) end
  call("ZREM", FLOW, next)
  give_turn(sub(next, 27, 34), sub(next, 11, 18), sub(next, 19, 26))
  flow_woken = true
end

local function open_again(key, probe_at)
  local circuit = circuit_of(key)
  circuit.state, circuit.probe_at = 1, probe_at
  changed(circuit)
  set_timer("x" .. key, probe_at)
end

-- Forgets what is known of a circuit; whether something was.
function few.close_circuit(key)
  local circuit = circuit_of(key)
  local known = circuit.known
  circuit.known, circuit.state, circuit.row, circuit.from, circuit.calls, circuit.failed = false, 0, 0, 0, 0, 0
  circuit.since, circuit.probe_at = 0, 0
  circuit.dirty, facts_dirty = circuit.dirty or known, facts_dirty or known
  wake_lane("x" .. key)
  return known
end

-- A lease has ended of which the holder says how its dependency was: 0 nothing, 1 it answered, 2 it failed.
function few.note_dependency(flow, id, fence, told)
  local key = sub(flow, 41, 48)
  if key == NO_KEY then return end
  local circuit = circuit_of(key)
  if circuit.mode ~= 0 then return end
  if few.is_probe(flow, id, fence) then
    if told == 1 then
      few.close_circuit(key)
    else
      open_again(key, told == 2 and now + circuit.probe or now)
    end
    return
  end
  if told == 0 or circuit.state ~= 0 then return end
  if now_ms - circuit.from >= circuit.window or now_ms < circuit.from then
    circuit.from, circuit.calls, circuit.failed, circuit.row = now_ms, 0, 0, 0
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
local function lose_probe(flow, id, fence)
  if few.is_probe(flow, id, fence) then
    local key = sub(flow, 41, 48)
    open_again(key, now + circuit_of(key).probe)
  end
end

-- A lane was looked at, or is gone: those behind it get their chance, but not at the scope that holds it.
function pass_on(flow, holds)
  for _, scope in ipairs(scopes_of(flow)) do
    if scope ~= holds then wake_lane(scope) end
  end
end

-- Puts a lane aside until the scope has a permit.
function block(scope, held, flow, order)
  local lane, share = sub(flow, 1, 8), sub(flow, 17, 24)
  call("ZREM", FLOW, "t" .. share .. order .. lane)
  call("ZADD", FLOW, 0, "b" .. scope .. order .. lane .. share)
  if held ~= true then set_timer(scope, held) end
  drop_fair(share)
end

-- A lane's first job has another order, or there is none.
local function move_lane(flow, from, to)
  local lane, share = sub(flow, 1, 8), sub(flow, 17, 24)
  local blocked
  if call("ZREM", FLOW, "t" .. share .. from .. lane) == 0 then
    for _, scope in ipairs(scopes_of(flow)) do
      if call("ZREM", FLOW, "b" .. scope .. from .. lane .. share) == 1 then
        blocked = scope
        break
      end
    end
  end
  if to and blocked then
    call("ZADD", FLOW, 0, "b" .. blocked .. to .. lane .. share)
  elseif to then
    give_turn(share, to, lane)
  end
  drop_fair(share)
end

-- Puts a job that is in no order into its lane.
function enter_lane(id, flow, score)
  local lane, order = sub(flow, 1, 8), order_of(score)
  local before = first_of("j" .. lane)
  local place = order .. id
  call("ZADD", FLOW, 0, "j" .. lane .. place)
  local share = begun(sub(flow, 17, 24))
  share.waiting = share.waiting + 1
  if not before then
    give_turn(sub(flow, 17, 24), order, lane)
  elseif place < sub(before, 10) then
    move_lane(flow, sub(before, 10, 17), order)
  end
  flow_woken = true
end

-- Takes a job out of its lane, if it is there.
function leave_lane(id, flow, score)
  local lane, order = sub(flow, 1, 8), order_of(score)
  local first = first_of("j" .. lane)
  if call("ZREM", FLOW, "j" .. lane .. order .. id) == 0 then return end
  if first == "j" .. lane .. order .. id then
    local next = first_of("j" .. lane)
    move_lane(flow, order, next and sub(next, 10, 17))
    if not next then pass_on(flow) end
  end
  local share = begun(sub(flow, 17, 24))
  share.waiting = max(share.waiting - 1, 0)
  let_go(sub(flow, 17, 24))
end

-- Counts a lease for a scope.
local function count(scope, id)
  local added = call("ZADD", FLOW, 0, "r" .. scope .. id)
  if running[scope] then running[scope] = running[scope] + added end
end

-- It is counted no longer: who waits for the scope gets a chance.
local function uncount(scope, id)
  if call("ZREM", FLOW, "r" .. scope .. id) == 0 then return end
  if running[scope] then running[scope] = running[scope] - 1 end
  wake_lane(scope)
end

-- Counts a lease for its limits and its share; `flow` is nil for a job without keys.
function start_flow(id, fence, flow)
  if not flow then
    load_virtual()
    if share_count > 0 then take_slots(NO_KEY, 1) end
    return
  end
  if sub(flow, 41, 48) ~= NO_KEY then start_probe(sub(flow, 41, 48), id, fence) end
  local kind, key = sub(flow, 9, 16), sub(flow, 25, 32)
  if few.limits_of_kind(kind)[1] > 0 then count("k" .. kind, id) end
  if key ~= NO_KEY then count("c" .. key, id) end
  take_slots(sub(flow, 17, 24), (unpacked(">I4", flow, 53)))
end

-- The lease of a held has ended; `flow` is nil for a job without keys.
function end_flow(id, flow, held)
  local claimed_at = unpacked(">i8", held, 19)
  if not flow then
    if share_of(NO_KEY).known then charge(NO_KEY, 1, claimed_at) end
    return
  end
  lose_probe(flow, id, unpacked(">I8", held, 47))
  charge(sub(flow, 17, 24), unpacked(">I4", flow, 53), claimed_at)
  local kind, key = sub(flow, 9, 16), sub(flow, 25, 32)
  uncount("k" .. kind, id)
  if key ~= NO_KEY then uncount("c" .. key, id) end
end

-- The job with the flow of its kind, if that is limited and it has none.
function with_flow(job)
  if kinds_limited == 0 or byte(job, 37) > 127 then return job end
  local length = byte(job, 50)
  local key = limited_kind(sub(job, 51, 50 + length))
  if not key then return job end
  return sub(job, 1, 36) .. string.char(byte(job, 37) + 128) .. sub(job, 38, 50 + length) .. flow_of_kind(key)
    .. sub(job, 51 + length)
end

-- Takes a job out of its lane, or ends its lease; `held` is false if it has none, and `job` if it is lost.
function take_out(id, job, held)
  local flow = (held or job) and flow_of(job, held)
  if held and byte(held, 1) == LEASED then
    end_flow(id, flow, held)
  elseif flow and (not held or byte(held, 1) == WAITING) then
    leave_lane(id, flow, (unpacked(">i8", held or job, held and 59 or 17)))
  end
end

-- Does what is due: at most so much.
function fire_timers(limit)
  if not is_active() then return end
  call("ZREMRANGEBYSCORE", RATES, "-inf", text_of(now))
  forget_shares(limit)
  for _, scope in ipairs(call("ZRANGE", TIMERS, "-inf", text_of(now), "BYSCORE", "LIMIT", 0, limit)) do
    call("ZREM", TIMERS, scope)
    wake_lane(scope)
  end
end

-- The tag of whoever was chosen.
function advance(tag)
  if tag > virtual then virtual, facts_dirty = tag, true end
end
end
