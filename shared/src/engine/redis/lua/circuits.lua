-- circuits.lua: what is known of circuits.
--
-- Returns {"circuits", then for each: its key and what facts say of it, in one string}. Writes nothing.
local reply = { "circuits" }
for _, member in ipairs(call("ZRANGE", FLOW, "[x", "(y", "BYLEX")) do
  local value = call("HGET", FACTS, member)
  if value and #value == 61 then reply[#reply + 1] = sub(member, 2) .. value end
end
return reply
