-- standing.lua: which jobs can still move, for the scripts that look for damage. Comes after shard.lua.
--
-- A store may lose single keys, or fields and members of them. A job that is in no order, or is leased and not held,
-- would never move again. It counts as lost, so that the ledger brings it back; `push` mends it.

-- Whether a job that waits is in its lane.
local function in_lane(id, held)
  if not is_held(held) then held = false end
  local job = not held and call("HGET", JOBS, id)
  if not held and not is_job(job) then return false end
  local flow, score = flow_of(job, held), unpacked(">i8", held or job, held and 59 or 17)
  if not flow then return false end
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  local order = pack(">I8", score + SCORE_OFFSET)
  if not call("ZSCORE", FLOW, "j" .. lane .. order .. id) then return false end
  -- And where it, or the lane that is aside, is found.
  local place, turn = call("HGET", FACTS, "b" .. lane), "u" .. kind .. share .. order .. lane .. id
  if place then
    local first = call("ZRANGE", FLOW, "[j" .. lane, "(k", "BYLEX", "LIMIT", "0", "1")[1]
    turn = "t" .. place .. share .. sub(first, 10, 17) .. lane .. kind
  end
  place = place or "f" .. kind
  if not call("ZSCORE", FLOW, turn) then return false end
  local noted = call("HGET", FACTS, "n" .. share .. place)
  return noted and call("ZSCORE", FLOW, "s" .. share .. place) and call("ZSCORE", FLOW, "f" .. place .. noted .. share)
end

-- For each id of a job, with its held or false, whether it is where its status says.
local function placed(ids, helds)
  local answers = {}
  if #ids == 0 then return answers end
  local ready, delayed = call("ZMSCORE", READY, unpack(ids)), call("ZMSCORE", DELAYED, unpack(ids))
  local leases = call("ZMSCORE", LEASES, unpack(ids))
  for i = 1, #ids do
    local status = is_held(helds[i]) and byte(helds[i], 1) or WAITING
    if status == WAITING then
      answers[i] = (ready[i] or delayed[i] or in_lane(ids[i], helds[i])) and true or false
    else
      answers[i] = status == FINISHING or (leases[i] and true or false)
    end
  end
  return answers
end
