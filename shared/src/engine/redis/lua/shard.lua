-- shard.lua: the beginning of every script: a shard's keys, the layout of its values, and how they are
-- read and written. Not a script of its own.
--
-- `now` (engine time, µs) and the bounds in capitals come from the few lines that are put before this.
--
-- KEYS[1] meta     string  counters, gate and settings (below)
-- KEYS[2] jobs     hash    id -> job as pushed (below); its beginning holds until there is a `held`
-- KEYS[3] held     hash    id -> what has become of a job since it was first claimed (below)
-- KEYS[4] ready    zset    id -> score
-- KEYS[5] delayed  zset    id -> due time, ms
-- KEYS[6] leases   zset    id -> end of the lease, ms
-- KEYS[7] outbox   list    outcomes in the order of their seq (layout: `report` below)
-- KEYS[8] tombs0   hash    id -> tombstone written in an even window: fence u64, and "\1" if it lets in the job that
--                          waits with this very fence
-- KEYS[9] tombs1   hash    the same of odd windows
-- KEYS[10…14] flow, timers, idle, rates, facts: limits and shares (flow.lua)
-- KEYS[15] refused  zset    groups of jobs (the first three bytes of a lane, zeros for those without one) that were refused
--                          room, by when, µs
-- KEYS[16] reported set    workers that reported since the gate was shut; only for the scripts of gates
-- ARGV[1] how the names of the channels of the shard's signals begin; a letter follows
--
-- The meta, numbers u64 unless said otherwise; of any other length than 148 or 240 it counts as lost, so that the
-- gate is shut:
--    1 last seq   9 bytes   17 outbox bytes   25 tombstone window
--   33 recorded seq, and from here on `rest`, of which few scripts unpack anything; 41 seen   49 no reap until
--   57 ledger, 16 bytes   73 generation   81 process, 40 bytes: all zero: no gate; all `-`: shut;
--      all `=`: shut and sealed; else of the process that it is open for
--  121 grace   129 slots u32   133 ramp   141 ramp from
--  149 settings, 92 bytes or none: version u64, paused u8, jobs_max u64, bytes_max u64, priority unit in whole
--      seconds u64 and rest in ns u32; limits (flow.lua) of the queue and of each key; how many kinds have some u16;
--      whether facts belong to them u8; retry budget: for each hundred first starts u32, 4 bytes, interval in µs u64 (0: no
--      budget), burst u32
-- A job, big-endian; ids are 16 raw bytes, times µs. Its head, to 41, is what changes once there is a held:
--    1 fence u64   9 crashes u32   13 attempt u32   17 score i64   25 run_at i64   33 max_crashes u32
--   37 priority u8, 128 more if it has a flow   38 envelope's length u32
--   42 expires_at i64 (2^53: never)   50 kind's length u8   51 kind, then if it has a flow (flow.lua) that
--   and its length u8 before it, and the envelope, never looked at
-- A held:
--    1 status u8   2 cancel u8   3 worker (zero: never leased)   19 claimed_at i64   27 crashes u32
--   31 lease token (zero: none, or reaped)   47 fence u64   55 attempt u32   59 on: a head's from score on
--   84 if it has a flow its length u8   85 the flow, which then is the one that holds
-- Jobs are written once, so that an envelope is touched by push and claim only. A held is longer than 64
-- bytes: Redis would search a hash of smaller values linearly. Its parts are in the order in which scripts
-- cut and join most of them at a time.
--
-- Scripts cut and join raw bytes where they can: packing and unpacking numbers is what costs most. For the
-- same reason lists are filled with counters of their own, and numbers that go into many commands are turned
-- into text once.
--
-- Numbers are whole and below 2^53: exact in Lua, and in commands, to which Redis writes them as %.17g.
-- Every stage of a script reads and decides first and writes last: a command that a stranger's value makes
-- fail leaves what was written before it.
local META, JOBS, HELD, READY, DELAYED, LEASES, OUTBOX, TOMBS0, TOMBS1, FLOW, TIMERS, IDLE, RATES, FACTS = unpack(KEYS)
local CHANNEL = ARGV[1]
local WAITING, LEASED, FINISHING = 1, 2, 3
local STATUS = { "\1", "\2", "\3" }
local SUCCEEDED, RETRY, DEAD, SNOOZED, RELEASED, CANCELLED, EXPIRED, LOST, QUARANTINED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local TERMINAL = { [SUCCEEDED] = true, [DEAD] = true, [CANCELLED] = true, [EXPIRED] = true, [QUARANTINED] = true }
local JOB_MIN, HELD_LENGTH, FLOW_LENGTH, SCORE_OFFSET = 51, 83, 56, 4503599627370496
local NO_TOKEN, NO_LEASE = string.rep("\0", 16), string.rep("\0", 24)
local META_LENGTH, REST_LENGTH, SETTINGS_LENGTH = 148, 116, 92
local call, pack, unpacked, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte
local SHUT, SEALED = byte("-"), byte("=")
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
local now_ms = floor(now / 1000)

local meta = call("GET", META)
if not meta or (#meta ~= META_LENGTH + SETTINGS_LENGTH and #meta ~= META_LENGTH) then
  meta = string.rep("\0", META_LENGTH)
end
local last_seq, bytes, outbox_bytes, window = unpacked(">I8I8I8I8", meta)
-- Numbers that Lua does not hold exactly were written by a stranger, and would make loops endless.
if last_seq + bytes + outbox_bytes + window >= 9007199254740992 then
  meta, last_seq, bytes, outbox_bytes, window = string.rep("\0", META_LENGTH), 0, 0, 0, 0
end
local rest, settings = sub(meta, 33), sub(meta, 149)
local configured = #settings > 0
local version, paused, jobs_max, bytes_max, unit_s, unit_ns = -1, 0, DEFAULT_JOBS_MAX, DEFAULT_BYTES_MAX, 0, 0
local unit_ms, queue_concurrency, queue_interval, queue_burst = DEFAULT_UNIT_MS, 0, 0, 0
local key_concurrency, key_interval, key_burst, kinds_limited, with_facts = 0, 0, 0, 0, 0
local open, retries = false, { interval = 0 }

-- Takes the settings for what is done from here on.
local function read_settings(given)
  version, paused, jobs_max, bytes_max, unit_s, unit_ns, queue_concurrency, queue_interval, queue_burst,
    key_concurrency, key_interval, key_burst, kinds_limited, with_facts = unpacked(">I8BI8I8I8I4I4I8I4I4I8I4I2B", given)
  retries.percent, retries.interval, retries.burst = unpacked(">I4I8I4", sub(given, 73, 76) .. sub(given, 81))
  unit_ms, open = unit_s * 1000 + floor(unit_ns / 1000000), paused == 0
end
if configured then read_settings(settings) end

-- Writes `value` over a part of `rest`, from there on.
local function put(from, value)
  rest = sub(rest, 1, from - 1) .. value .. sub(rest, from + #value)
end

-- Writes the meta if it changed.
local function save()
  local changed = pack(">I8I8I8I8", last_seq, max(bytes, 0), max(outbox_bytes, 0), window) .. rest
  if changed ~= meta then call("SET", META, changed) end
  meta = changed
end

-- Whether there is a gate, open or shut.
local function has_gate()
  return byte(rest, 49) ~= 0
end

-- Whether the gate is shut, sealed or not.
local function is_shut()
  return byte(rest, 49) == SHUT or byte(rest, 49) == SEALED
end

-- Whether it is open, for this process or another.
local function opened()
  return has_gate() and not is_shut()
end

-- Its generation, open or shut; 0 without a gate.
local function generation()
  return (unpacked(">I8", rest, 41))
end

local serves
-- Whether the process that serves the shard is the gate's.
local function verified()
  if serves == nil then
    serves = false
    if opened() then
      local info = call("INFO", "replication")
      local ours = string.find(info, "master_replid:" .. sub(rest, 49, 88), 1, true)
      -- A replica, which may be behind, has the id of its primary.
      serves = ours ~= nil and string.find(info, "role:master", 1, true) ~= nil
    end
  end
  return serves
end

-- What is recorded by now: last seq, recorded seq and, if the gate is open, its generation.
local function position()
  return pack(">I8", last_seq) .. sub(rest, 1, 8) .. (verified() and sub(rest, 41, 48) or "")
end

-- Notes a sign of life while leases are held, unless the last one is fresh. After a jump of engine time nothing is
-- reaped for a grace. A jump is further than signs of life are apart.
local function note_seen()
  local seen, no_reap_until = unpacked(">I8I8", rest, 9)
  if now < seen or now - seen >= SEEN_EVERY_US then
    local grace = unpacked(">I8", rest, 89)
    if now > seen + CLOCK_STEP_US and now >= no_reap_until + grace then no_reap_until = now + grace end
    put(9, pack(">I8I8", now, no_reap_until))
  end
end

-- Runs a variadic command over any number of values, or pairs of values, in bounded pieces; the sum of its replies.
local function each(command, key, values)
  local changed = 0
  for first = 1, #values, 400 do
    changed = changed + call(command, key, unpack(values, first, min(first + 399, #values)))
  end
  return changed
end

-- The values of these ids, in order; false where there is none.
local function fetch(key, ids)
  if #ids == 0 then return {} end
  if #ids <= 400 then return call("HMGET", key, unpack(ids)) end
  local all = {}
  for first = 1, #ids, 400 do
    for _, value in ipairs(call("HMGET", key, unpack(ids, first, min(first + 399, #ids)))) do
      all[#all + 1] = value
    end
  end
  return all
end

-- Whether this is a job at all. What is not was written by a stranger: treated as absent.
local function is_job(job)
  return job and #job >= JOB_MIN
end

-- The same of a held.
local function is_held(held)
  return held and (#held == HELD_LENGTH or (#held > HELD_LENGTH and #held == HELD_LENGTH + 1 + byte(held, HELD_LENGTH + 1)))
end

-- A flow as jobs and helds have it.
local function flow_tail(flow)
  return string.char(FLOW_LENGTH) .. flow
end

-- The flow of a job, by its held or false and the job; nil if it has none, or one of a length that is not known.
local function flow_of(job, held)
  if held then
    if byte(held, 79) > 127 and byte(held, 84) == FLOW_LENGTH then return sub(held, 85) end
  elseif byte(job, 37) > 127 then
    local at = 51 + byte(job, 50)
    if byte(job, at) == FLOW_LENGTH and #job >= at + FLOW_LENGTH then return sub(job, at + 1, at + FLOW_LENGTH) end
  end
end

-- For each id its head as it now stands, longer where there is no held, or false; and its held or false.
local function fetch_heads(ids)
  local heads, helds, missing, places = {}, fetch(HELD, ids), {}, {}
  for i = 1, #ids do
    local held = helds[i]
    if is_held(held) then
      heads[i] = sub(held, 47, 54) .. sub(held, 27, 30) .. sub(held, 55)
    else
      heads[i], helds[i] = false, false
      missing[#missing + 1] = ids[i]
      places[#missing] = i
    end
  end
  for i, job in ipairs(fetch(JOBS, missing)) do heads[places[i]] = is_job(job) and job end
  return heads, helds
end

-- Whole milliseconds, rounded up, and the score of a job with this priority and `run_at`.
local function due_and_score(run_at, priority)
  local due_ms = ceil(run_at / 1000)
  return due_ms, due_ms - priority % 128 * unit_ms
end

-- A whole number as commands take it; the last one is remembered.
local last_number, last_text
local function text_of(number)
  if number ~= last_number then
    last_number, last_text = number, string.format("%.0f", number)
  end
  return last_text
end

-- A u32 in raw bytes, plus one.
local function plus_one(raw)
  if raw == "\0\0\0\0" then return "\0\0\0\1" end
  local number = unpacked(">I4", raw)
  return pack(">I4", min(number + 1, 4294967295))
end

local outcomes, outcome_count, endings = {}, 0, {}
-- Appends an outcome: seq u64, id, a held's part from worker to fence, attempt u32, ended u8, ready again at
-- i64, at i64, detail.
local function report(id, part, attempt, ended, again_at, detail)
  last_seq = last_seq == 0 and max(now, 1) or last_seq + 1
  local ending = again_at == 0 and endings[ended] or nil
  if not ending then
    ending = pack(">Bi8i8", ended, again_at, now)
    if again_at == 0 then endings[ended] = ending end
  end
  outcome_count = outcome_count + 1
  outcomes[outcome_count] = pack(">I8", last_seq) .. id .. part .. attempt .. ending .. detail
  local size = #detail + OUTCOME_BYTES
  bytes, outbox_bytes = bytes + size, outbox_bytes + size
end

-- Whether so many outcomes wait that no leases are given. An empty outbox has no bytes, whatever was counted.
local function braked()
  local length = call("LLEN", OUTBOX)
  if length == 0 then bytes, outbox_bytes = bytes - outbox_bytes, 0 end
  return outbox_bytes >= OUTBOX_BYTES_MAX or length >= OUTBOX_ENTRIES_MAX
end

-- Tells what is worth waking for, each on a channel of its own, so that it wakes only those whom it concerns:
-- "r" ready, "o" outcomes, "c" and an id per cancel; shut says "g", and a claim that found no verified gate "u". `ended` is
-- how many leases have ended: where they were as many as the queue allows, there is room again for what is ready.
local function publish(ready, grew, cancels, ended)
  if not ready and open and queue_concurrency > 0 and (ended or 0) > 0 then
    local left = call("ZCARD", LEASES)
    if left < queue_concurrency and left + ended >= queue_concurrency then
      ready = call("ZCARD", READY) > 0 or #call("ZRANGE", FLOW, "[ff", "(fg", "BYLEX", "LIMIT", "0", "1") > 0
    end
  end
  if ready and open then call("PUBLISH", CHANNEL .. "r", "r") end
  if grew then call("PUBLISH", CHANNEL .. "o", "o") end
  if cancels and cancels ~= "" then call("PUBLISH", CHANNEL .. "c", cancels) end
end
