-- seal.lua: ends the time in which holders adopt freely.
--
-- ARGV[2] ledger, 16 bytes
-- ARGV[3] generation u64
--
-- Returns {"sealed"}, or {"other"} when the gate is not shut by these. Writes the gate.
if sub(rest, 25, 48) ~= ARGV[2] .. ARGV[3] or not is_shut() then return { "other" } end
put(49, string.rep("=", 40))
save()
return { "sealed" }
