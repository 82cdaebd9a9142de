-- stats.lua: counts of a shard, in constant time.
--
-- Returns {"stats", now, ready, delayed, leased, outbox, bytes, groups that were refused room, settings as stored or "", head of
-- the first of the ready or of a lane or "", gate open 0 or 1}. Writes nothing.

-- The first member of FLOW that begins so.
local function first_of(prefix)
  return call("ZRANGE", FLOW, "[" .. prefix, "[" .. prefix .. string.rep("\255", 48), "BYLEX", "LIMIT", "0", "1")[1]
end

-- The first job of a share for a kind whose lane is not aside: its order and lane, and its id.
local function first_alone(prefix)
  local from = 0
  repeat
    local members = call("ZRANGE", FLOW, "[" .. prefix, "[" .. prefix .. string.rep("\255", 48), "BYLEX", "LIMIT", from, 100)
    local lanes = {}
    for i, member in ipairs(members) do lanes[i] = "b" .. sub(member, 26, 33) end
    for i, place in ipairs(fetch(FACTS, lanes)) do
      if not place then return sub(members[i], 18, 33), sub(members[i], 34) end
    end
    from = from + 100
  until #members < 100
end

-- Whether these bytes come before those.
local function is_before(these, those)
  for i = 1, #these do
    if byte(these, i) ~= byte(those, i) then return byte(these, i) < byte(those, i) end
  end
  return false
end

-- The first job of the lane that is next for the first kind that has any which may be chosen.
local function first_in_lanes()
  local share = first_of("ff")
  if not share then return nil end
  local turn, kind = first_of("t" .. sub(share, 2, 10) .. sub(share, 19)), sub(share, 3, 10)
  local order, id = first_alone("u" .. kind .. sub(share, 19))
  if not turn or (order and not is_before(sub(turn, 19, 34), order)) then return id end
  local job = first_of("j" .. sub(turn, 27, 34))
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
