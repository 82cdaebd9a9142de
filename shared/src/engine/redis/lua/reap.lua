-- reap.lua: takes back jobs whose lease ran out.
--
-- ARGV[2] how many at most
--
-- Returns {"moved", how many, members found that are no jobs}. Writes what they are held as, places and
-- outcomes.
local moved, readied = reap(min(tonumber(ARGV[2]), MOVE_MAX))
each("RPUSH", OUTBOX, outcomes)
few.save_flow()
save()
publish(readied > 0 or few.woken, outcome_count > 0, nil, moved)
return { "moved", moved, garbage }
