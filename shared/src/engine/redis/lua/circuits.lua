-- circuits.lua: what is known of circuits.
--
-- Returns {"circuits", then for each: its key and what facts say of it, in one string}. Writes nothing.
local reply = { "circuits" }
for _, name in ipairs(call("HKEYS", FACTS)) do
  local value = byte(name) == 120 and call("HGET", FACTS, name)
  if value and #value == 61 then reply[#reply + 1] = sub(name, 2) .. value end
end
return reply
