-- exists.lua: which jobs the shard knows, as entries or standing tombstones.
--
-- ARGV[2] number of ids
-- ARGV[3…] the ids
--
-- Returns {"known", answers} with a letter per id: 1 known, 0 not. Writes nothing.
local ids = {}
for i = 1, tonumber(ARGV[2]) do ids[i] = ARGV[2 + i] end
local tombs = standing(ids)
local answers = {}
for i = 1, #ids do
  -- One by one: HMGET would copy the envelopes.
  answers[i] = (tombs[i] >= 0 or call("HEXISTS", JOBS, ids[i]) == 1) and "1" or "0"
end
return { "known", table.concat(answers) }
