-- refused.lua: groups that were refused room.
--
-- ARGV[2] at most
--
-- Returns {"refused", then for each, those first that were refused longest ago: the group, whether it has room now 0 or 1}.
-- Writes nothing.
local reply, free = { "refused" }, max(jobs_max - call("HLEN", JOBS) + call("ZCARD", DELAYED), 0)
for _, group in ipairs(tonumber(ARGV[2]) > 0 and call("ZRANGE", KEYS[15], 0, tonumber(ARGV[2]) - 1) or {}) do
  local waiting = call("ZLEXCOUNT", FLOW, "[j" .. group, "[j" .. group .. string.rep("\255", 48))
  if group == "\0\0\0" then waiting = waiting + call("ZCARD", READY) end
  if #group == 3 then
    reply[#reply + 1] = group
    reply[#reply + 1] = waiting < BOUNDS.refill * free and 1 or 0
  end
end
return reply
