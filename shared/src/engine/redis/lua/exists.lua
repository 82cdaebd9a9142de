-- exists.lua: which jobs the shard knows, as entries that can move or standing tombstones.
--
-- ARGV[2] number of ids, all different
-- ARGV[3…] the ids
--
-- Returns {"known", answers} with a letter per id: 1 known, 0 not. Writes nothing.
local ids = {}
for i = 1, tonumber(ARGV[2]) do ids[i] = ARGV[2 + i] end
local tombs, can_move = standing(ids), placed(ids, fetch(HELD, ids))
local answers = {}
for i = 1, #ids do
  -- One by one, and only its length: HMGET would copy the envelopes.
  local known = tombs[i] >= 0 or (can_move[i] and call("HSTRLEN", JOBS, ids[i]) >= JOB_MIN)
  answers[i] = known and "1" or "0"
end
return { "known", table.concat(answers) }
