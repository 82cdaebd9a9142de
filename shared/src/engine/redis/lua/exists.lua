-- exists.lua: which jobs the shard knows, as entries that can move or standing tombstones.
--
-- ARGV[2] number of ids, all different
-- ARGV[3…] the ids
--
-- Returns {"known", answers} with a letter per id: 1 known, 0 not. Writes nothing.
local ids = {}
for i = 1, tonumber(ARGV[2]) do ids[i] = ARGV[2 + i] end
local tombs, answers, others, places = standing(ids), {}, {}, {}
for i = 1, #ids do
  answers[i] = tombs[i] >= 0 and "1" or "0"
  -- One by one, and only its length: HMGET would copy the envelopes. Most that are asked for are new.
  if tombs[i] < 0 and call("HSTRLEN", JOBS, ids[i]) >= JOB_MIN then
    others[#others + 1], places[#places + 1] = ids[i], i
  end
end
local can_move = placed(others, fetch(HELD, others))
for i = 1, #others do
  if can_move[i] then answers[places[i]] = "1" end
end
return { "known", table.concat(answers) }
