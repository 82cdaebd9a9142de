-- left_out.lua: notes that the ledger keeps jobs of groups that were not brought here, as if they had been refused.
--
-- ARGV[2] how many
-- ARGV[3…] the groups
--
-- Returns {"noted"}.
local groups = {}
for i = 1, tonumber(ARGV[2]) do groups[i] = ARGV[2 + i] end
note_refused(groups)
return { "noted" }
