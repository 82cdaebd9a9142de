-- flow/limits.lua: concurrency, rates and circuits: whether they hold a job back, and what a start takes of them.

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
