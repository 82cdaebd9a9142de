-- peek.lua: one job's live state.
--
-- ARGV[2] id
--
-- Returns {"absent"}, or {"ready", rank, record}, {"delayed", 0, record}, {"leased", end ms, record},
-- {"finishing", 0, record}. Writes nothing.
local id = ARGV[2]
local record = call("HGET", JOBS, id)
if not sound(record) then return { "absent" } end
local status = byte(record, 1)
if status == FINISHING then return { "finishing", 0, record } end
if status == LEASED then
  return { "leased", tonumber(call("ZSCORE", LEASES, id) or now_ms), record }
end
local rank = call("ZRANK", READY, id)
if rank then return { "ready", rank, record } end
return { "delayed", 0, record }
