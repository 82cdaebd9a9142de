-- standing.lua: which jobs can still move, for the scripts that look for damage. Comes after shard.lua.
--
-- A store may lose single keys, or fields and members of them. A job that is in no order, or is leased and not held,
-- would never move again. It counts as lost, so that the ledger brings it back; `push` mends it.

-- For each id of a job, with its held or false, whether it is where its status says.
local function placed(ids, helds)
  local answers = {}
  if #ids == 0 then return answers end
  local ready, delayed = call("ZMSCORE", READY, unpack(ids)), call("ZMSCORE", DELAYED, unpack(ids))
  local leases = call("ZMSCORE", LEASES, unpack(ids))
  for i = 1, #ids do
    local status = is_held(helds[i]) and byte(helds[i], 1) or WAITING
    if status == WAITING then
      answers[i] = (ready[i] or delayed[i]) and true or false
    else
      answers[i] = status == FINISHING or (leases[i] and true or false)
    end
  end
  return answers
end
