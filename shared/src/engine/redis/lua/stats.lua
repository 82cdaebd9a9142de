-- stats.lua: counts of a shard, in constant time.
--
-- Returns {"stats", now, ready, delayed, leased, outbox, bytes, groups that were refused room, settings as stored or "", head of
-- the first of the ready or of a lane or "", gate open 0 or 1}. Writes nothing.

-- The first member of FLOW that begins so.
local function first_of(prefix)
  return call("ZRANGE", FLOW, "[" .. prefix, "[" .. prefix .. string.rep("\255", 48), "BYLEX", "LIMIT", 0, 1)[1]
end

-- The first job of the lane that is next for the first kind that has any which may be chosen.
local function first_in_lanes()
  local share = first_of("ff")
  local turn = share and first_of("t" .. sub(share, 2, 10) .. sub(share, 19))
  local job = turn and first_of("j" .. sub(turn, 27, 34))
  return job and sub(job, 18)
end

local heads = {}
for _, id in ipairs({ call("ZRANGE", READY, 0, 0)[1] or false, first_in_lanes() or false }) do
  heads[#heads + 1] = id and fetch_heads({ id })[1] or nil
end
if #heads == 2 and unpacked(">i8", heads[2], 25) < unpacked(">i8", heads[1], 25) then heads[1] = heads[2] end
-- Settings of which a part is lost are none.
local facts = call("HGET", FACTS, "g")
if configured and with_facts ~= 0 and facts ~= sub(settings, 1, 8) then settings = "" end
return {
  "stats", now, call("ZCARD", READY) + call("ZLEXCOUNT", FLOW, "[j", "(k"), call("ZCARD", DELAYED), call("ZCARD", LEASES), call("LLEN", OUTBOX),
  bytes, call("ZCARD", KEYS[15]), settings, heads[1] or "", verified() and 1 or 0,
}
