-- drop.lua: takes jobs out, whatever they are doing, that still have the fence they were seen with.
--
-- ARGV[2] "bury": tombstones stay; "forget": none
-- ARGV[3] number of jobs, their ids all different
-- ARGV[4…] for each: id, fence u64
--
-- Returns {"dropped", answers} with a letter per job: D dropped, K kept, or not here. Removes those dropped.
local count = tonumber(ARGV[3])
local ids = {}
for i = 1, count do ids[i] = ARGV[2 * i + 2] end
local heads, helds = fetch_heads(ids)
local tombs, partly = standing(ids)
local answers, dropped, buried = {}, {}, {}
for i = 1, count do
  local head, fence = heads[i], ARGV[2 * i + 3]
  if head and sub(head, 1, 8) == fence then
    answers[i] = "D"
    dropped[#dropped + 1] = ids[i]
    few.take_out(ids[i], head, helds[i])
    bytes = bytes - unpacked(">I4", head, 38)
    if ARGV[2] == "bury" then
      buried[#buried + 1] = ids[i]
      buried[#buried + 1] = grave((unpacked(">I8", fence)), false, tombs[i], partly[i])
    end
  else
    answers[i] = "K"
  end
end

turn()
bury(buried)
for _, key in ipairs({ READY, DELAYED }) do each("ZREM", key, dropped) end
local ended = each("ZREM", LEASES, dropped)
for _, key in ipairs({ JOBS, HELD }) do each("HDEL", key, dropped) end
few.save_flow()
save()
publish(few.woken, false, nil, ended)
return { "dropped", table.concat(answers) }
