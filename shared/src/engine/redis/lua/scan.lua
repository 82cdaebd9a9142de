-- scan.lua: some of the jobs in the shard, in no order.
--
-- ARGV[2] cursor; 0 begins
-- ARGV[3] about how many
--
-- Returns {"scanned", next cursor, position, then for each: id, its head up to run_at and u8 in one string: 1
-- finishing, 2 leased, 0 else}; the cursor "0" ends. A job that is here from the first call to the last is in at least one answer. Writes nothing.
local page = call("HSCAN", JOBS, ARGV[2], "COUNT", ARGV[3])
local ids, jobs = {}, {}
for i = 1, #page[2], 2 do
  ids[#ids + 1] = page[2][i]
  jobs[#ids] = page[2][i + 1]
end
local reply = { "scanned", page[1], position() }
for i, held in ipairs(fetch(HELD, ids)) do
  if is_held(held) then
    local status = byte(held, 1)
    local told = status == FINISHING and "\1" or status == LEASED and "\2" or "\0"
    reply[#reply + 1] = ids[i] .. sub(held, 47, 54) .. sub(held, 27, 30) .. sub(held, 55, 74) .. told
  elseif is_job(jobs[i]) then
    reply[#reply + 1] = ids[i] .. sub(jobs[i], 1, 32) .. "\0"
  end
end
return reply
