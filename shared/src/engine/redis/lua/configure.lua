-- configure.lua: gives a shard its settings, and opens it.
--
-- ARGV[2…] the settings (settings.lua)
--
-- Returns {"configured"}, or {"newer"} when the shard has a higher version and keeps it.
local was_open = open
local found = take_settings(2)
if found == nil then return { "newer" } end
save()
publish(found or (not was_open and (call("ZCARD", READY) > 0 or few.any_turn())))
return { "configured" }
