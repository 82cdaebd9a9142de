-- withdraw.lua: takes jobs out whose outcomes are to be recorded past the engine.
--
-- ARGV[2] number of leases, their ids all different
-- ARGV[3] up to where the outbox was looked through: seq u64, generation u64 if the gate was open; empty: from the first
-- ARGV[4…] for each: id; fence u64, token (zero: not known), crashes u32, attempt u32 and u8 in one string: 0 the job is
--          over, 1 its retry counts, 2 it runs again as if it had not begun
--
-- Returns {"withdrawn", up to where it was looked through now, answers} with a letter per lease: K known, W waits, B
-- behind, O out, T stolen. Removes the jobs that are out and writes their tombstones.
local count = tonumber(ARGV[2])
local looked, generation_now, ids = ARGV[3], sub(position(), 17), {}
for i = 1, count do ids[i] = ARGV[2 * i + 2] end
local present, helds = fetch(JOBS, ids), fetch(HELD, ids)
local tombs, partly = standing(ids)

-- Some of the outbox, which has all numbers up to the last one.
local skip, all = 0, call("LLEN", OUTBOX)
local before = max(last_seq - all, 0)
if #looked > 0 and sub(looked, 9) == generation_now then skip = max(unpacked(">I8", looked) - before, 0) end
local last = min(all, skip + MOVE_MAX)
local waiting = {}
if last > skip then
  for _, outcome in ipairs(call("LRANGE", OUTBOX, skip, last - 1)) do waiting[sub(outcome, 9, 24)] = true end
end

-- Whether this is what the settle of this very lease has left.
local function settled_here(lease, held)
  local status, over = byte(held, 1), byte(lease, 33) == 0
  local own = sub(lease, 9, 24) ~= NO_TOKEN and sub(held, 31, 54) == sub(lease, 9, 24) .. sub(lease, 1, 8)
  return own and ((status == FINISHING and over) or (status == WAITING and not over))
end

-- Why the job stays, or false. No outcome of it waits.
local function stays(lease, old, held)
  local fence, token = unpacked(">I8", lease), sub(lease, 9, 24)
  local old_fence = unpacked(">I8", held or old, held and 47 or 1)
  local crashes, attempt = unpacked(">I4", held or old, held and 27 or 9), unpacked(">I4", held or old, held and 55 or 13)
  if old_fence > fence then
    return byte(lease, 33) == 1 and attempt > unpacked(">I4", lease, 29) and "K" or "T"
  end
  if old_fence < fence then return false end
  -- What has ended here has lost its outcome, and is as if leased.
  if held and byte(held, 1) ~= WAITING then return token ~= NO_TOKEN and token ~= sub(held, 31, 46) and "T" end
  local settled = held and token ~= NO_TOKEN and sub(held, 31, 46) == token
  local counted = crashes > unpacked(">I4", lease, 25) or attempt > unpacked(">I4", lease, 29)
  return (settled or counted) and "T"
end

local function judge(id, lease, old, held)
  if held and settled_here(lease, held) then return "K" end
  if waiting[id] then return "W" end
  if last < all then return "B" end
  return (old or held) and stays(lease, old, held)
end

local answers, gone, buried = {}, {}, {}
for i = 1, count do
  local id, lease = ids[i], ARGV[2 * i + 3]
  local old, held = is_job(present[i]) and present[i], is_held(helds[i]) and helds[i]
  local kept = judge(id, lease, old, held)
  answers[i] = kept or "O"
  if not kept then
    if old or held then
      gone[#gone + 1] = id
      few.take_out(id, old, held)
      bytes = bytes - unpacked(">I4", old or held, old and 38 or 80)
    end
    buried[#buried + 1] = id
    buried[#buried + 1] = grave((unpacked(">I8", lease)), byte(lease, 33) > 0, tombs[i], partly[i])
  end
end

turn()
bury(buried)
for _, key in ipairs({ READY, DELAYED }) do each("ZREM", key, gone) end
local ended = each("ZREM", LEASES, gone)
each("HDEL", HELD, gone)
each("HDEL", JOBS, gone)
few.save_flow()
save()
publish(few.woken, false, nil, ended)
return { "withdrawn", pack(">I8", before + last) .. generation_now, table.concat(answers) }
