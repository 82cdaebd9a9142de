-- flow/jobs.lua: a job starts, ends or is moved; what is due. The end of flow.lua.

-- Counts a lease for its limits and its share, of which it returns the tag; `flow` is nil for a job without keys.
local function start_flow(id, fence, flow)
  if not flow then
    load_virtual()
    if share_count > 0 then take_slots(NO_KEY, 1) end
    return
  end
  if sub(flow, 41, 48) ~= NO_KEY then start_probe(sub(flow, 41, 48), id, fence) end
  local kind, share, key = sub(flow, 9, 16), sub(flow, 17, 24), sub(flow, 25, 32)
  if few.limits_of_kind(kind)[1] > 0 then few.count("k" .. kind, id) end
  if key ~= NO_KEY then few.count("c" .. key, id) end
  take_slots(share, (unpacked(">I4", flow, 53)))
  return few.refresh(share, kind)
end

-- The lease of a held has ended; `flow` is nil for a job without keys.
local function end_flow(id, flow, held)
  local claimed_at = unpacked(">i8", held, 19)
  if not flow then
    if share_of(NO_KEY).known then charge(NO_KEY, 1, claimed_at) end
    return
  end
  few.lose_probe(flow, id, unpacked(">I8", held, 47))
  local kind, share, key = sub(flow, 9, 16), sub(flow, 17, 24), sub(flow, 25, 32)
  charge(share, unpacked(">I4", flow, 53), claimed_at)
  few.refresh(share, kind)
  if few.limits_of_kind(kind)[1] > 0 then few.uncount("k" .. kind, id) end
  if key ~= NO_KEY then few.uncount("c" .. key, id) end
end

-- The job with the flow of its kind, if that is limited and it has none.
local function with_flow(job)
  if kinds_limited == 0 or byte(job, 37) > 127 then return job end
  local length = byte(job, 50)
  local key = limited_kind(sub(job, 51, 50 + length))
  if not key then return job end
  return sub(job, 1, 36) .. string.char(byte(job, 37) + 128) .. sub(job, 38, 50 + length) .. flow_tail(flow_of_kind(key))
    .. sub(job, 51 + length)
end

-- Takes a job out of its lane, or ends its lease; `held` is false if it has none, and `job` if it is lost.
local function take_out(id, job, held)
  local flow = (held or job) and flow_of(job, held)
  if held and byte(held, 1) == LEASED then
    end_flow(id, flow, held)
  elseif flow and (not held or byte(held, 1) == WAITING) then
    leave_lane(id, flow, (unpacked(">i8", held or job, held and 59 or 17)))
  end
end

-- Does what is due: at most so much of each sort.
local function fire_timers(limit)
  if not is_active() then return end
  -- Forgotten: rates that are as if nothing had ever started.
  call("ZREMRANGEBYSCORE", RATES, "-inf", text_of(now))
  forget_shares(limit)
  if not call("ZRANGE", TIMERS, 0, 0)[1] then return end
  local value = call("HGET", FACTS, "t")
  local since = now - (value and #value == 8 and unpacked(">I8", value) or 0)
  if since < 0 then
    -- The clock was set back: who waits for an instant that is far off now is looked at.
    local all = {}
    for _, scope in ipairs(call("ZRANGE", TIMERS, 0, -1)) do
      all[#all + 1] = text_of(now)
      all[#all + 1] = scope
    end
    each("ZADD", TIMERS, all)
  end
  if since < 0 or since >= SHARE.looked then call("HSET", FACTS, "t", pack(">I8", now)) end
  local due = call("ZRANGE", TIMERS, "-inf", text_of(now), "BYSCORE", "LIMIT", "0", limit)
  each("ZREM", TIMERS, due)
  for _, scope in ipairs(due) do
    if byte(scope) == 120 and not first_of("f" .. scope) then tend_circuit(sub(scope, 2)) else wake_lane(scope) end
  end
end

few.any_turn, few.flow_of_kind, few.limited_kind, few.with_flow, few.take_out, few.enter_lane, few.leave_lane, few.start_flow, few.end_flow, few.fire_timers, few.save_flow, few.first_of, few.order_of, few.tag_of, few.scopes_of, few.held_by, few.spend, few.block, few.pass_on =
  any_turn, flow_of_kind, limited_kind, with_flow, take_out, enter_lane, leave_lane, start_flow, end_flow, fire_timers, save_flow, first_of, order_of, tag_of, scopes_of, held_by, spend, block, pass_on
end

setmetatable(few, { __index = function(_, name)
  setmetatable(few, nil)
  load_flow()
  return few[name]
end })
