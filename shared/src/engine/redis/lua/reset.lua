-- reset.lua: forgets what is known of a circuit, which closes it.
--
-- ARGV[2] its key
--
-- Returns {"reset", whether something was known 0 or 1}.
local known = few.close_circuit(ARGV[2])
few.save_flow()
publish(few.woken)
return { "reset", known and 1 or 0 }
