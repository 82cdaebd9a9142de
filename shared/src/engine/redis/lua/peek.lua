-- peek.lua: one job's live state.
--
-- ARGV[2] id
--
-- Returns {"absent"}, or {"ready", rank, head}, {"delayed", 0, head}, {"leased", end ms, held},
-- {"finishing", 0, held}; a head is a held or a job. Writes nothing.
local id = ARGV[2]
local heads, helds = fetch_heads({ id })
local head, held = heads[1], helds[1]
if not head then return { "absent" } end
local status = held and byte(held, 42) or WAITING
if status == FINISHING then return { "finishing", 0, head } end
if status == LEASED then
  return { "leased", tonumber(call("ZSCORE", LEASES, id) or now_ms), head }
end
local rank = call("ZRANK", READY, id)
if rank then return { "ready", rank, head } end
return { "delayed", 0, head }
