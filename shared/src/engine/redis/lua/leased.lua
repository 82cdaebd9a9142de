-- leased.lua: some of the leased jobs, in no order. There is no order of claims to read: it would cost
-- every job two more steps, and few leases live long enough to be asked for.
--
-- ARGV[2] cursor; 0 begins
-- ARGV[3] claimed at or after, µs
-- ARGV[4] claimed at or before, µs
-- ARGV[5] about how many to look at
--
-- Returns {"leased", next cursor, then for each: id and held in one string}; the cursor "0" ends.
-- A lease that lasts from the first call to the last is in at least one answer. Writes nothing.
local from, to = tonumber(ARGV[3]), tonumber(ARGV[4])
local page = call("ZSCAN", LEASES, ARGV[2], "COUNT", ARGV[5])
local ids = {}
for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
local reply = { "leased", page[1] }
for i, held in ipairs(fetch(HELD, ids)) do
  if is_held(held) and byte(held, 1) == LEASED then
    local claimed_at = unpacked(">i8", held, 19)
    if claimed_at >= from and claimed_at <= to then reply[#reply + 1] = ids[i] .. held end
  end
end
return reply
