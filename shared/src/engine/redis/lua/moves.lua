-- moves.lua: what time does to a shard, for the scripts that move jobs. Comes after shard.lua.
local garbage = 0

-- Makes due delayed jobs ready, in order, up to `limit`; how many left `delayed`, and how many became ready.
local function promote(limit)
  local ids = call("ZRANGE", DELAYED, "-inf", now_ms, "BYSCORE", "LIMIT", 0, limit)
  if #ids == 0 then return 0 end
  local ready = {}
  for i, record in ipairs(fetch(JOBS, ids)) do
    if sound(record) then
      ready[#ready + 1] = unpacked(">i8", record, 27)
      ready[#ready + 1] = ids[i]
    else
      garbage = garbage + 1
    end
  end
  each("ZADD", READY, ready)
  call("ZREMRANGEBYRANK", DELAYED, 0, #ids - 1)
  return #ready / 2
end

-- Takes back jobs whose lease ran out, in order, up to `limit`; how many, and how many became ready.
local function reap(limit)
  local ids = call("ZRANGE", LEASES, "-inf", "(" .. string.format("%.0f", now_ms), "BYSCORE", "LIMIT", 0, limit)
  if #ids == 0 then return 0, 0 end
  local ready, changed = {}, {}
  for i, record in ipairs(fetch(JOBS, ids)) do
    if sound(record) then
      local id = ids[i]
      local _, cancel, fence, attempt, crashes, _, score, max_crashes = unpacked(">BBI8I4I4i8i8I4", record)
      local split = tail_end(record)
      local status, ended = FINISHING, CANCELLED
      if cancel == 0 then
        crashes = crashes + 1
        ended = QUARANTINED
        if crashes < max_crashes then
          status, ended = WAITING, LOST
          ready[#ready + 1] = score
          ready[#ready + 1] = id
        end
      end
      changed[#changed + 1] = id
      -- Without its token: a settle that comes too late must not look like a repeated one.
      changed[#changed + 1] = pack(">BBI8I4I4", status, cancel, fence, attempt, crashes)
        .. sub(record, 19, split) .. NO_TOKEN .. sub(record, split + 17)
      report(id, fence, ended, 0, attempt, crashes, sub(record, split + 17, split + 40), "")
    else
      garbage = garbage + 1
    end
  end
  each("HSET", JOBS, changed)
  each("ZADD", READY, ready)
  call("ZREMRANGEBYRANK", LEASES, 0, #ids - 1)
  return #changed / 2, #ready / 2
end
