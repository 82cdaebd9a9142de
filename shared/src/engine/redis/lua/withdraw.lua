-- withdraw.lua: takes jobs out whose outcomes are to be recorded past the engine.
--
-- ARGV[2] number of leases, their ids all different
-- ARGV[3] a position seen before: last seq u64, generation u64 if the gate was open; empty if none
-- ARGV[4…] for each: id; fence u64, token (zero: not known), crashes u32, attempt u32 and u8 in one string: 0 the job is
--          over, 1 its retry counts, 2 it runs again as if it had not begun
--
-- Returns {"withdrawn", position, answers} with a letter per lease: B behind, O out, C counted, T stolen. Removes the jobs
-- that are out and writes their tombstones.
local count = tonumber(ARGV[2])
local seen, here, ids, behind = ARGV[3], position(), {}, {}

-- Outcomes that are not known to be on record.
local fresh = call("LLEN", OUTBOX)
if #seen > 0 and unpacked(">I8", rest) >= unpacked(">I8", seen) and sub(here, 17) == sub(seen, 9) then
  fresh = min(fresh, max(last_seq - unpacked(">I8", seen), 0))
end
if fresh > MOVE_MAX then return { "withdrawn", here, string.rep("B", count) } end
if fresh > 0 then
  for _, outcome in ipairs(call("LRANGE", OUTBOX, -fresh, -1)) do behind[sub(outcome, 9, 24)] = true end
end
for i = 1, count do ids[i] = ARGV[2 * i + 2] end
local present, helds = fetch(JOBS, ids), fetch(HELD, ids)
local tombs, partly = standing(ids)

-- Why the job stays, or false.
local function stays(lease, old, held)
  local fence = unpacked(">I8", lease)
  local old_fence = unpacked(">I8", held or old, held and 47 or 1)
  local status = held and byte(held, 1) or WAITING
  -- Of an outcome that is lost; else it would be among those behind.
  if status == FINISHING then return "B" end
  -- A later lease, or what waits after one.
  if old_fence > fence then
    local counted = held and unpacked(">I4", held, 55) or unpacked(">I4", old, 13)
    return byte(lease, 33) == 1 and counted > unpacked(">I4", lease, 29) and "C" or "T"
  end
  local token = sub(lease, 9, 24)
  if status == LEASED then
    local other = token ~= NO_TOKEN and token ~= sub(held, 31, 46)
    return old_fence == fence and other and "T"
  end
  local tally = held and sub(held, 27, 30) .. sub(held, 55, 58) or sub(old, 9, 16)
  local settled = held and token ~= NO_TOKEN and sub(held, 31, 46) == token
  return old_fence == fence and (settled or tally ~= sub(lease, 25, 32)) and "T"
end

local answers, gone, buried = {}, {}, {}
for i = 1, count do
  local id, lease = ids[i], ARGV[2 * i + 3]
  local old, held = is_job(present[i]) and present[i], is_held(helds[i]) and helds[i]
  local known = old or held
  local kept = behind[id] and "B" or known and stays(lease, old, held)
  answers[i] = kept or "O"
  if not kept then
    if known then
      gone[#gone + 1] = id
      bytes = bytes - unpacked(">I4", old or held, old and 38 or 80)
    end
    buried[#buried + 1] = id
    buried[#buried + 1] = grave((unpacked(">I8", lease)), byte(lease, 33) > 0, tombs[i], partly[i])
  end
end

turn()
bury(buried)
for _, key in ipairs({ READY, DELAYED, LEASES }) do each("ZREM", key, gone) end
each("HDEL", HELD, gone)
each("HDEL", JOBS, gone)
save()
return { "withdrawn", here, table.concat(answers) }
