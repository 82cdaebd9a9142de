-- shard.lua: the beginning of every script: a shard's keys, the layout of its values, and how they are
-- read and written. Not a script of its own.
--
-- `now` (engine time, µs) and the bounds in capitals come from the few lines that are put before this.
--
-- KEYS[1] meta     string  32 bytes: last seq, bytes, outbox bytes, tombstone window (u64 each); then
--                          the settings, 37 bytes: version u64, paused u8, jobs_max u64, bytes_max u64,
--                          priority unit in whole seconds u64 and rest in ns u32. No settings: unconfigured
-- KEYS[2] jobs     hash    id -> record (below)
-- KEYS[3] bodies   hash    id -> envelope, never looked at
-- KEYS[4] ready    zset    id -> score
-- KEYS[5] delayed  zset    id -> due time, ms
-- KEYS[6] leases   zset    id -> end of the lease, ms
-- KEYS[7] outbox   list    outcomes in the order of their seq (layout: `report` below)
-- KEYS[8] tombs0   hash    id -> fence (u64) of the tombstones written in even windows
-- KEYS[9] tombs1   hash    the same of odd windows
-- ARGV[1] the channel of the shard's signals
--
-- A record, big-endian; ids are 16 raw bytes, times µs:
--    1 status u8   2 cancel u8   3 fence u64   11 attempt u32   15 crashes u32
--   19 run_at i64   27 score i64   35 max_crashes u32   39 priority u8   40 expires_at i64 (2^53: never)
--   48 envelope's length u32   52 kind's length u8   53 kind, padded to KIND_PAD bytes at least
--   then, once it was leased: lease token (zero when reaped), worker, claimed_at i64
-- The padding keeps records above 64 bytes: Redis would search hashes of smaller values linearly.
--
-- Numbers are whole and below 2^53: exact in Lua, and in commands, to which Redis writes them as %.17g.
-- Every stage of a script reads and decides first and writes last, and adds before it removes.
local META, JOBS, BODIES, READY, DELAYED, LEASES, OUTBOX, TOMBS0, TOMBS1 = unpack(KEYS)
local CHANNEL = ARGV[1]
local WAITING, LEASED, FINISHING = 1, 2, 3
local SUCCEEDED, RETRY, DEAD, SNOOZED, RELEASED, CANCELLED, EXPIRED, LOST, QUARANTINED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local TERMINAL = { [SUCCEEDED] = true, [DEAD] = true, [CANCELLED] = true, [EXPIRED] = true, [QUARANTINED] = true }
local KIND_PAD = 13
local NO_TOKEN, NO_LEASE = string.rep("\0", 16), string.rep("\0", 24)
local call, pack, unpacked, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
local now_ms = floor(now / 1000)

local meta = call("GET", META) or string.rep("\0", 32)
local last_seq, bytes, outbox_bytes, window = unpacked(">I8I8I8I8", meta)
local settings = sub(meta, 33)
local configured = #settings > 0
local version, paused, jobs_max, bytes_max, unit_s, unit_ns = -1, 0, DEFAULT_JOBS_MAX, DEFAULT_BYTES_MAX, 0, 0
local unit_ms = DEFAULT_UNIT_MS
if configured then
  version, paused, jobs_max, bytes_max, unit_s, unit_ns = unpacked(">I8BI8I8I8I4", settings)
  unit_ms = unit_s * 1000 + floor(unit_ns / 1000000)
end
local open = configured and paused == 0

-- Writes the counters and settings if they changed.
local function save()
  local changed = pack(">I8I8I8I8", last_seq, bytes, outbox_bytes, window) .. settings
  if changed ~= meta then call("SET", META, changed) end
end

-- Runs a variadic command over any number of values, or pairs of values, in bounded pieces.
local function each(command, key, values)
  for first = 1, #values, 400 do
    call(command, key, unpack(values, first, min(first + 399, #values)))
  end
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

-- Whether this is a record at all. What is not was written by a stranger: treated as absent.
local function sound(record)
  return record and #record > 64
end

-- Where the part of a record ends that every record has.
local function tail_end(record)
  return 52 + max(byte(record, 52), KIND_PAD)
end

local function score_of(due_ms, priority)
  return due_ms - priority * unit_ms
end

local outcomes = {}
-- Appends an outcome: seq u64, id, fence u64, ended u8, ready again at i64, at i64, attempt u32,
-- crashes u32, worker (16 bytes) and claimed_at i64 of the lease that ended, detail.
local function report(id, fence, ended, again_at, attempt, crashes, lease, detail)
  last_seq = last_seq == 0 and max(now, 1) or last_seq + 1
  bytes = bytes + #detail + OUTCOME_BYTES
  outbox_bytes = outbox_bytes + #detail + OUTCOME_BYTES
  outcomes[#outcomes + 1] = pack(">I8c16I8Bi8i8I4I4c24", last_seq, id, fence, ended, again_at, now, attempt, crashes, lease) .. detail
end

-- Whether so many outcomes wait that no leases are given.
local function braked()
  return outbox_bytes >= OUTBOX_BYTES_MAX or call("LLEN", OUTBOX) >= OUTBOX_ENTRIES_MAX
end

-- One message for all that is worth waking for: "r" ready, "o" outcomes, then "c" and an id per cancel.
local function publish(ready, grew, cancels)
  local text = (ready and open and "r" or "") .. (grew and "o" or "") .. (cancels or "")
  if text ~= "" then call("PUBLISH", CHANNEL, text) end
end
