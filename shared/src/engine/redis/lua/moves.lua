-- moves.lua: what time does to a shard, for the scripts that move jobs. Comes after shard.lua and
-- flow.lua.
local garbage = 0

-- Makes these delayed jobs ready, but for retries, if `put_behind` is given: those are put there with where they stand behind
-- the other delayed ones. How many became ready.
function few.make_ready(ids, put_behind)
  local ready, moved = {}, 0
  local heads, helds = fetch_heads(ids)
  for i = 1, #ids do
    local head, held = heads[i], helds[i]
    -- One that is held or finishing is here by damage only.
    if not head or (held and byte(held, 1) ~= WAITING) then
      garbage = garbage + 1
    elseif put_behind and sub(head, 13, 16) ~= "\0\0\0\0" then
      put_behind[#put_behind + 1] = text_of(ceil(unpacked(">i8", head, 25) / 1000) + BOUNDS.behind)
      put_behind[#put_behind + 1] = ids[i]
    else
      local score, flow = unpacked(">i8", head, 17), flow_of(head, held)
      moved = moved + 1
      if flow then
        few.enter_lane(ids[i], flow, score)
      else
        ready[#ready + 1] = text_of(score)
        ready[#ready + 1] = ids[i]
      end
    end
  end
  each("ZADD", READY, ready)
  return moved
end

-- Makes the first of the retries ready that wait for the budget, as many as there are units for; how many.
function few.move_retries(limit)
  local most = limit
  if retries.interval > 0 then most = min(few.retry_units(), limit) end
  local ids = most > 0 and few.behind(most) or {}
  local moved = few.make_ready(ids)
  each("ZREM", DELAYED, ids)
  if retries.interval > 0 then
    few.spend_retries(#ids)
  elseif #ids < limit then
    -- Nobody waits any more for a budget that is gone.
    call("HDEL", FACTS, "y")
  end
  return moved
end

-- Makes due delayed jobs ready, in order, up to `limit`; how many. `heal`: also retries of which the store has lost that any
-- wait for the budget.
local function promote(limit, heal)
  if is_active() then few.fire_timers(MOVE_MAX) end
  local ids = call("ZRANGE", DELAYED, "-inf", now_ms, "BYSCORE", "LIMIT", "0", limit)
  local moved = 0
  if #ids > 0 then
    local put_behind = retries.interval > 0 and {} or nil
    moved = few.make_ready(ids, put_behind)
    call("ZREMRANGEBYRANK", DELAYED, 0, #ids - 1)
    each("ZADD", DELAYED, put_behind or {})
    if put_behind and #put_behind > 0 then few.note_bucket() end
  end
  if heal or ((retries.interval > 0 or is_active()) and few.may_be_behind()) then moved = moved + few.move_retries(limit - #ids) end
  return moved
end

-- Whether leases that ran out may be taken back now. Notes jumps of engine time.
local function may_reap()
  local seen = unpacked(">I8", rest, 9)
  if now < seen or now - seen >= SEEN_EVERY_US then
    if call("ZCARD", LEASES) == 0 then return false end
    note_seen()
  end
  return now >= unpacked(">I8", rest, 17)
end

-- Takes back jobs whose lease ran out, in order, up to `limit`; how many, and how many became ready
-- outside of lanes.
local function reap(limit)
  if not may_reap() then return 0, 0 end
  local ids = call("ZRANGE", LEASES, "-inf", "(" .. string.format("%.0f", now_ms), "BYSCORE", "LIMIT", "0", limit)
  if #ids == 0 or not verified() then return 0, 0 end
  local ready, changed = {}, {}
  for i, held in ipairs(fetch(HELD, ids)) do
    local id = ids[i]
    if is_held(held) and byte(held, 1) == LEASED then
      local status, ended, crashes = FINISHING, CANCELLED, sub(held, 27, 30)
      local flow = flow_of(nil, held)
      few.end_flow(id, flow, held)
      if byte(held, 2) == 0 then
        crashes = plus_one(crashes)
        ended = QUARANTINED
        if unpacked(">I4", crashes) < unpacked(">I4", held, 75) then
          status, ended = WAITING, LOST
          local score = unpacked(">i8", held, 59)
          if flow then
            few.enter_lane(id, flow, score)
          else
            ready[#ready + 1] = text_of(score)
            ready[#ready + 1] = id
          end
        end
      end
      -- Without its token: a settle that comes too late must not look like a repeated one.
      local part = sub(held, 3, 26) .. crashes .. NO_TOKEN .. sub(held, 47, 54)
      changed[#changed + 1] = id
      changed[#changed + 1] = STATUS[status] .. sub(held, 2, 2) .. part .. sub(held, 55)
      report(id, part, sub(held, 55, 58), ended, 0, "")
    else
      garbage = garbage + 1
    end
  end
  each("HSET", HELD, changed)
  each("ZADD", READY, ready)
  call("ZREMRANGEBYRANK", LEASES, 0, #ids - 1)
  return #changed / 2, #ready / 2
end
