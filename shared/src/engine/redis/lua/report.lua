-- report.lua: notes that a worker has adopted and replayed all it has, if the gate is shut.
--
-- ARGV[2] worker
--
-- Returns {"reported"}.
if sub(rest, 49, 88) == SHUT_PROCESS then call("SADD", REPORTED, ARGV[2]) end
return { "reported" }
