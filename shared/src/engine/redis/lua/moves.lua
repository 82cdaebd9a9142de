-- moves.lua: what time does to a shard, for the scripts that move jobs. Comes after shard.lua and
-- flow.lua.
local garbage = 0

-- Makes due delayed jobs ready, in order, up to `limit`; how many.
local function promote(limit)
  fire_timers(MOVE_MAX)
  local ids = call("ZRANGE", DELAYED, "-inf", now_ms, "BYSCORE", "LIMIT", 0, limit)
  if #ids == 0 then return 0 end
  local ready, moved = {}, 0
  -- Of retries that have to wait: how many, their new places, and what is kept of them.
  local put_off, later, jobs_later, helds_later = 0, {}, {}, {}
  local heads, helds = fetch_heads(ids)
  for i = 1, #ids do
    local head, held = heads[i], helds[i]
    -- One that is held or finishing is here by damage only.
    if head and (not held or byte(held, 1) == WAITING) then
      local score, flow = unpacked(">i8", head, 17), flow_of(head, held)
      local until_us = retries.interval > 0 and sub(head, 13, 16) ~= "\0\0\0\0" and few.retry_waits(put_off)
      if until_us then
        put_off = put_off + 1
        local kept = held and helds_later or jobs_later
        kept[#kept + 1] = ids[i]
        kept[#kept + 1] = held and sub(held, 1, 66) .. pack(">i8", until_us) .. sub(held, 75)
          or sub(head, 1, 24) .. pack(">i8", until_us) .. sub(head, 33)
        later[#later + 1] = text_of(ceil(until_us / 1000))
        later[#later + 1] = ids[i]
      elseif flow then
        moved = moved + 1
        enter_lane(ids[i], flow, score)
      else
        moved = moved + 1
        ready[#ready + 1] = text_of(score)
        ready[#ready + 1] = ids[i]
      end
    else
      garbage = garbage + 1
    end
  end
  each("ZADD", READY, ready)
  each("HSET", HELD, helds_later)
  each("HSET", JOBS, jobs_later)
  call("ZREMRANGEBYRANK", DELAYED, 0, #ids - 1)
  each("ZADD", DELAYED, later)
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
  local ids = call("ZRANGE", LEASES, "-inf", "(" .. string.format("%.0f", now_ms), "BYSCORE", "LIMIT", 0, limit)
  if #ids == 0 or not verified() then return 0, 0 end
  local ready, changed = {}, {}
  for i, held in ipairs(fetch(HELD, ids)) do
    local id = ids[i]
    if is_held(held) and byte(held, 1) == LEASED then
      local status, ended, crashes = FINISHING, CANCELLED, sub(held, 27, 30)
      local flow = flow_of(nil, held)
      end_flow(id, flow, held)
      if byte(held, 2) == 0 then
        crashes = plus_one(crashes)
        ended = QUARANTINED
        if unpacked(">I4", crashes) < unpacked(">I4", held, 75) then
          status, ended = WAITING, LOST
          local score = unpacked(">i8", held, 59)
          if flow then
            enter_lane(id, flow, score)
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
