-- peek.lua: one job's live state.
--
-- ARGV[2] id
--
-- Returns {"absent"}, or {"ready", rank, head, held}, {"delayed", 0, head, held}, {"leased", end ms, head,
-- held}, {"finishing", 0, head, held}; the held is "" where there is none. Writes nothing.
local id = ARGV[2]
local heads, helds = fetch_heads({ id })
if not heads[1] then return { "absent" } end
local head, held = sub(heads[1], 1, 41), helds[1] or ""
local status = helds[1] and byte(held, 1) or WAITING
if status == FINISHING then return { "finishing", 0, head, held } end
if status == LEASED then return { "leased", tonumber(call("ZSCORE", LEASES, id) or now_ms), head, held } end
local rank = call("ZRANK", READY, id)
if rank then return { "ready", rank, head, held } end
local flow = flow_of(heads[1], helds[1])
if flow then
  local lane, order = "j" .. sub(flow, 1, 8), pack(">I8", unpacked(">i8", head, 17) + SCORE_OFFSET)
  if call("ZSCORE", FLOW, lane .. order .. id) then
    return { "ready", call("ZLEXCOUNT", FLOW, "[" .. lane, "(" .. lane .. order .. id), head, held }
  end
end
return { "delayed", 0, head, held }
