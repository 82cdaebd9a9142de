-- configure.lua: gives a shard its settings, and opens it.
--
-- ARGV[2] the settings, as stored
--
-- Returns {"configured"}, or {"newer"} when the shard has a higher version and keeps it.
local given_version, given_paused = unpacked(">I8B", ARGV[2])
if given_version < version then return { "newer" } end
local was_open = open
open, rest = given_paused == 0, sub(rest, 1, REST_LENGTH) .. ARGV[2]
save()
publish(not was_open and call("ZCARD", READY) > 0)
return { "configured" }
