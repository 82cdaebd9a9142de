-- refilled.lua: takes fresh jobs of groups again that were refused room.
--
-- ARGV[2] how many
-- ARGV[3…] the groups
--
-- Returns {"refilled"}.
local groups = {}
for i = 1, tonumber(ARGV[2]) do groups[i] = ARGV[2 + i] end
each("ZREM", KEYS[15], groups)
return { "refilled" }
