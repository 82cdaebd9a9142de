-- open.lua: opens the gate.
--
-- ARGV[2] the gate, as stored, without the instant of its opening
-- ARGV[3…] settings (settings.lua)
--
-- Returns {"open"}, {"moved"} or {"newer"}. Writes the gate, and the settings unless the shard has newer ones.
local gate = ARGV[2]
if not has_gate() then return { "moved" } end
local present, given = unpacked(">I8", rest, 41), unpacked(">I8", gate, 17)
if sub(rest, 25, 40) ~= sub(gate, 1, 16) or present > given then return { "newer" } end
if present < given or sub(gate, 25, 64) ~= process() then return { "moved" } end
if verified() then return { "open" } end
local found = take_settings(3)
local packed_now = pack(">I8", now)
put(25, gate .. packed_now)
put(9, packed_now)
if call("ZCARD", LEASES) > 0 then put(17, pack(">I8", now + unpacked(">I8", gate, 65))) end
save()
publish(found or call("ZCARD", READY) > 0 or few.any_turn())
return { "open" }
