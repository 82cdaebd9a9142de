-- withdraw.lua: takes jobs out whose outcomes are to be recorded past the engine.
--
-- ARGV[2] number of leases, their ids all different
-- ARGV[3…] for each: id; fence u64, fence of the tombstone u64, token (zero: not known), crashes u32 and attempt u32 in
--          one string
--
-- Returns {"withdrawn", answers} with a letter per lease: O out, F finishing, T stolen. Removes the jobs that are out
-- and writes their tombstones.
local count = tonumber(ARGV[2])
local ids = {}
for i = 1, count do ids[i] = ARGV[2 * i + 1] end
local present, helds, tombs = fetch(JOBS, ids), fetch(HELD, ids), standing(ids)

-- Why the job stays, or false.
local function stays(lease, old, held)
  local fence = unpacked(">I8", lease)
  local old_fence = unpacked(">I8", held or old, held and 47 or 1)
  local status = held and byte(held, 1) or WAITING
  if status == FINISHING then return "F" end
  local token = sub(lease, 17, 32)
  if status == LEASED then
    local other = token ~= NO_TOKEN and token ~= sub(held, 31, 46)
    return (old_fence > fence or (old_fence == fence and other)) and "T"
  end
  local tally = held and sub(held, 27, 30) .. sub(held, 55, 58) or sub(old, 9, 16)
  local settled = held and token ~= NO_TOKEN and sub(held, 31, 46) == token
  return (old_fence > fence or (old_fence == fence and (settled or tally ~= sub(lease, 33, 40)))) and "T"
end

local answers, gone, buried = {}, {}, {}
for i = 1, count do
  local id, lease = ids[i], ARGV[2 * i + 2]
  local old, held = is_job(present[i]) and present[i], is_held(helds[i]) and helds[i]
  local known = old or held
  local kept = known and stays(lease, old, held)
  answers[i] = kept or "O"
  if not kept then
    if known then
      gone[#gone + 1] = id
      bytes = bytes - unpacked(">I4", old or held, old and 38 or 80)
    end
    buried[#buried + 1] = id
    buried[#buried + 1] = unpacked(">I8", lease, 9) > tombs[i] and sub(lease, 9, 16) or pack(">I8", tombs[i])
  end
end

turn()
bury(buried)
for _, key in ipairs({ READY, DELAYED, LEASES }) do each("ZREM", key, gone) end
each("HDEL", HELD, gone)
each("HDEL", JOBS, gone)
save()
return { "withdrawn", table.concat(answers) }
