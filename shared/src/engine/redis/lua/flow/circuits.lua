-- flow/circuits.lua: what opens and closes a circuit.

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
