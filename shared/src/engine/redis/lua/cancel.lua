-- cancel.lua: keeps jobs from starting.
--
-- ARGV[2] "stop": leased jobs are told to stop; "waiting": they are left alone
-- ARGV[3] number of jobs, their ids all different
-- ARGV[4…] for each: id, the ledger's fence u64
--
-- Returns {"cancelled", answers} with a letter per job: W was waiting and is removed, A absent, L leased,
-- F finishing. Writes the tombstones of W and A, removes W, sets the flag of L if they are to stop.
local stop = ARGV[2] == "stop"
local count = tonumber(ARGV[3])
local ids = {}
for i = 1, count do ids[i] = ARGV[2 * i + 2] end
local heads, helds = fetch_heads(ids)
local tombs, partly = standing(ids)

local answers, buried, waiting, flagged, cancels = {}, {}, {}, {}, {}
for i = 1, count do
  local id, head = ids[i], heads[i]
  local fence = unpacked(">I8", ARGV[2 * i + 3])
  local status = helds[i] and byte(helds[i], 1) or WAITING
  if not head then
    answers[i] = "A"
    buried[#buried + 1] = id
    buried[#buried + 1] = grave(fence, false, tombs[i], partly[i])
  elseif status == WAITING then
    answers[i] = "W"
    waiting[#waiting + 1] = id
    local flow = flow_of(head, helds[i])
    if flow then few.leave_lane(id, flow, (unpacked(">i8", head, 17))) end
    bytes = bytes - unpacked(">I4", head, 38)
    buried[#buried + 1] = id
    buried[#buried + 1] = pack(">I8", max(fence, (unpacked(">I8", head))))
  elseif status == LEASED then
    answers[i] = "L"
    if stop then
      flagged[#flagged + 1] = id
      flagged[#flagged + 1] = sub(helds[i], 1, 1) .. "\1" .. sub(helds[i], 3)
      cancels[#cancels + 1] = "c" .. id
    end
  else
    answers[i] = "F"
  end
end

turn()
bury(buried)
for _, key in ipairs({ READY, DELAYED }) do each("ZREM", key, waiting) end
for _, key in ipairs({ JOBS, HELD }) do each("HDEL", key, waiting) end
each("HSET", HELD, flagged)
few.save_flow()
save()
publish(few.woken, false, table.concat(cancels))
return { "cancelled", table.concat(answers) }
