-- report.lua: notes how far a worker is, if the gate is shut by this generation.
--
-- ARGV[2] worker, 16 bytes: it has adopted and replayed all it has; one byte more: it is at it
-- ARGV[3] ledger, 16 bytes, and generation u64 in one string
--
-- Returns {"reported"}.
if is_shut() and sub(rest, 25, 48) == ARGV[3] then call("SADD", KEYS[16], ARGV[2]) end
return { "reported" }
