-- refilled.lua: nothing of a group waits in the ledger any more, unless it was refused room again since.
--
-- ARGV[2] the group
-- ARGV[3] when it was refused, µs
--
-- Returns {"refilled"}.
local at = call("ZSCORE", KEYS[15], ARGV[2])
if at and tonumber(at) <= tonumber(ARGV[3]) then call("ZREM", KEYS[15], ARGV[2]) end
return { "refilled" }
