-- refused.lua: groups that were refused room and have some by now.
--
-- ARGV[2] at most
--
-- Returns {"refused", then for each, those first that were refused longest ago: the group, when in µs}. Writes nothing.
local reply, free = { "refused" }, jobs_max - call("HLEN", JOBS) + call("ZCARD", DELAYED)
local marks = call("ZRANGE", KEYS[15], 0, SCAN_MAX - 1, "WITHSCORES")
for i = 1, #marks, 2 do
  if #reply > 2 * tonumber(ARGV[2]) then break end
  local group = marks[i]
  local waiting = call("ZLEXCOUNT", FLOW, "[j" .. group, "[j" .. group .. string.rep("\255", 48))
  if group == "\0\0\0" then waiting = waiting + call("ZCARD", READY) end
  if #group == 3 and waiting < BOUNDS.refill * free then
    reply[#reply + 1], reply[#reply + 2] = marks[i], marks[i + 1]
  end
end
return reply
