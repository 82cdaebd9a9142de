-- promote.lua: makes due delayed jobs ready.
--
-- ARGV[2] how many at most
--
-- Returns {"moved", how many, members found that are no jobs}. Writes their places.
few.check_timers(MOVE_MAX)
local moved = promote(min(tonumber(ARGV[2]), MOVE_MAX), true)
few.save_flow()
publish(moved > 0 or few.woken)
return { "moved", moved, garbage }
