-- exists.lua: which jobs the shard knows, as entries that can move or standing tombstones.
--
-- ARGV[2] number of ids, all different
-- ARGV[3…] the ids
--
-- Returns {"known", answers} with a letter per id: 1 known, 0 not. Writes nothing.
local ids = {}
for i = 1, tonumber(ARGV[2]) do ids[i] = ARGV[2 + i] end
local tombs, others = standing(ids), {}
for i = 1, #ids do
  if tombs[i] < 0 then others[#others + 1] = ids[i] end
end
local can_move, answers, other = placed(others, fetch(HELD, others)), {}, 0
for i = 1, #ids do
  local known = tombs[i] >= 0
  if not known then
    other = other + 1
    -- One by one, and only its length: HMGET would copy the envelopes.
    known = can_move[other] and call("HSTRLEN", JOBS, ids[i]) >= JOB_MIN
  end
  answers[i] = known and "1" or "0"
end
return { "known", table.concat(answers) }
