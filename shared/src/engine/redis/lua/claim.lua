-- claim.lua: leases ready jobs to a worker, after promoting what is due and reaping what ran out.
--
-- ARGV[2] most leases
-- ARGV[3] length of the leases, µs
-- ARGV[4] worker and lease token, 32 bytes
-- ARGV[5] how many of the ready to skip
-- ARGV[6] the ledger whose jobs they must be, 16 bytes; empty: any
-- ARGV[7] number of kinds; 0: any
-- ARGV[8…] the kinds
--
-- Returns {"open", "unverified", "foreign", "paused", "braked", "warming" or "limited", now, next due ms or -1, next offset,
-- end of the leases ms, members found that are no jobs, position, then for each lease: id, fence u64, crashes u32 and
-- attempt u32 in one string, one byte more for the probe of a circuit, and the job}.
-- Writes the moved jobs first, then the lanes as it goes, and last the leased and the expired ones with the outcomes of
-- the latter.
local leases_max, lease_us, holder, offset = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local ledger = ARGV[6]
local filtered, kinds = tonumber(ARGV[7]) > 0, {}
for i = 1, tonumber(ARGV[7]) do kinds[ARGV[7 + i]] = true end

local moved = promote(MOVE_MAX)
local reaped = reap(MOVE_MAX)
moved = moved + reaped
-- Before the state is told: outcomes of the reaped may pull the brake. With their counters, so that no
-- number is given twice should the rest fail.
each("RPUSH", OUTBOX, outcomes)
save()
local grew = outcome_count > 0
outcomes, outcome_count = {}, 0

-- How many leases the ramp leaves; nil when it is over.
local function ramp_leaves()
  local slots, ramp, ramp_from = unpacked(">I4I8I8", rest, 97)
  local elapsed = max(now - ramp_from, 0)
  if elapsed >= ramp then return nil end
  local most = max(1, floor(slots * (ramp + 9 * elapsed) / (10 * ramp)))
  return max(most - call("ZCARD", LEASES), 0)
end

local state, queue_left = "open", 1
if not verified() then
  state = "unverified"
elseif ledger ~= "" and ledger ~= sub(rest, 25, 40) then
  state = "foreign"
elseif paused ~= 0 then
  state = "paused"
elseif braked() then
  state = "braked"
else
  local left = ramp_leaves()
  if left == 0 then state = "warming" end
  if left then leases_max = min(leases_max, left) end
  if queue_concurrency > 0 then
    queue_left = max(queue_concurrency - call("ZCARD", LEASES), 0)
    leases_max = min(leases_max, queue_left)
  end
end

-- Of the leases to give: ids, jobs, and helds or false.
local leased_ids, leased_jobs, leased_helds, leased, probes = {}, {}, {}, 0, {}
-- Of members of `ready`: those to take out, in their order, and those that are no jobs, or held and not waiting.
local removed, changed, strays, misplaced = {}, {}, {}, {}
local looked, expired, skipped = 0, 0, 0
local limited_until = nil
local until_ms = ceil((now + lease_us) / 1000)

local function stopped()
  return looked == SCAN_MAX or expired == MOVE_MAX
end

-- The names of the walk end with it: Lua has room for 200 at one time.
do
-- Whether this is a job at all. What is not is gone from its order.
local function usable(id, job, held)
  if not is_job(job) then
    strays[#strays + 1] = id
    if held then bytes = bytes - unpacked(">I4", held, 80) end
    return false
  end
  if held and byte(held, 1) ~= WAITING then
    misplaced[#misplaced + 1] = id
    return false
  end
  return true
end

local function has_expired(job)
  return unpacked(">i8", job, 42) <= now
end

local function expire(id, job, held)
  expired = expired + 1
  local fence = pack(">I8", unpacked(">I8", held or job, held and 47 or 1) + 1)
  local crashes = held and sub(held, 27, 30) or sub(job, 9, 12)
  local before = held and sub(held, 2, 46) or "\0" .. NO_LEASE .. crashes .. NO_TOKEN
  local tail = held and sub(held, 55) or sub(job, 13, 41) .. (flow_of(job) or "")
  changed[#changed + 1] = id
  changed[#changed + 1] = STATUS[FINISHING] .. before .. fence .. tail
  report(id, NO_LEASE .. crashes .. NO_TOKEN .. fence, sub(tail, 1, 4), EXPIRED, 0, "")
end

local function lease(id, job, held)
  leased = leased + 1
  leased_ids[leased], leased_jobs[leased], leased_helds[leased] = id, job, held
end

local function fits(job)
  return not filtered or kinds[sub(job, 51, 50 + byte(job, 50))]
end

-- The jobs without keys, in pages: few of the first are passed over as a rule; where many are, larger ones follow.
local page = { rank = filtered and offset or 0, size = min(leases_max, 200), ids = {}, at = 1, last = false }

-- The next one, which stays the next until it was looked at; nil when there is none.
local function next_ready()
  if page.at > #page.ids then
    if page.last then return nil end
    local ids = call("ZRANGE", READY, page.rank, page.rank + page.size - 1)
    page.ids, page.jobs, page.helds, page.at = ids, fetch(JOBS, ids), fetch(HELD, ids), 1
    page.rank, page.last, page.size = page.rank + #ids, #ids < page.size, 200
  end
  return page.ids[page.at]
end

-- Gives a job a lane that waits without one though its kind is limited.
local function to_lane(id, job, held, key)
  local flow = flow_of_kind(key)
  local length = byte(job, 50)
  call("HSET", JOBS, id, sub(job, 1, 36) .. string.char(byte(job, 37) % 128 + 128) .. sub(job, 38, 50 + length) .. flow
    .. sub(job, 51 + length))
  if held then
    call("HSET", HELD, id, sub(held, 1, 78) .. string.char(byte(held, 79) % 128 + 128) .. sub(held, 80, 83) .. flow)
  end
  enter_lane(id, flow, (unpacked(">i8", held or job, held and 59 or 17)))
end

-- Looks at a job that waits in no lane; whether the walk goes on.
local function visit_ready()
  local id, job, held = page.ids[page.at], page.jobs[page.at], page.helds[page.at]
  if not is_held(held) then held = false end
  if usable(id, job, held) then
    local key = limited_kind(sub(job, 51, 50 + byte(job, 50)))
    if has_expired(job) then
      removed[#removed + 1] = id
      expire(id, job, held)
    elseif key then
      removed[#removed + 1] = id
      to_lane(id, job, held, key)
    elseif not fits(job) then
      skipped = skipped + 1
    else
      limited_until = held_by("q" .. NO_KEY, 1)
      if limited_until then return false end
      spend("q" .. NO_KEY, 1)
      removed[#removed + 1] = id
      lease(id, job, held)
      start_flow(id, 0)
    end
  end
  looked, page.at = looked + 1, page.at + 1
  return true
end

local lanes_aside, shares_aside = {}, {}
fair_may_be = is_active() and call("EXISTS", FAIR) == 1

-- Tag and key of the share with the smallest tag, but for those put aside.
local function first_share()
  local place = 0
  while fair_may_be do
    local found = call("ZRANGE", FAIR, place, place, "WITHSCORES")
    local key = found[1]
    if not key then return nil end
    if shares_aside[key] then
      place = place + 1
    else
      local tag = tag_of(key)
      if tag == tonumber(found[2]) then return tag, key end
      set_tag(key)
      place = 0
    end
  end
end

-- The first lane of a share that is not put aside, and its order.
local function first_lane(share)
  local place = 0
  while true do
    local found = call("ZRANGE", FLOW, "[t" .. share, "[t" .. share .. FAR, "BYLEX", "LIMIT", place, 1)[1]
    if not found then return nil end
    local lane = sub(found, 18, 25)
    if not lanes_aside[lane] then return lane, sub(found, 10, 17) end
    place = place + 1
  end
end

-- Who is next: "ready", or a lane; nil when there is nobody.
local function choose()
  local ready = next_ready()
  while true do
    local tag, share = first_share()
    if not tag then return ready and "ready" end
    local unkeyed = tag_of(NO_KEY)
    if ready and (unkeyed < tag or (unkeyed == tag and share ~= NO_KEY)) then
      advance(unkeyed)
      return "ready"
    end
    local lane, order = first_lane(share)
    if lane then
      advance(tag)
      if ready and share == NO_KEY then
        local score = tonumber(call("ZSCORE", READY, ready))
        if score and order_of(score) <= order then return "ready" end
      end
      return lane
    end
    shares_aside[share] = true
  end
end

-- Looks at the first job of a lane; whether the walk goes on.
local function visit_lane(lane)
  local member = first_of("j" .. lane)
  if not member then
    -- Left of what the store has lost.
    for _, turn in ipairs(call("ZRANGE", FLOW, "[t", "(u", "BYLEX")) do
      if sub(turn, 18, 25) == lane then
        call("ZREM", FLOW, turn)
        drop_fair(sub(turn, 2, 9))
      end
    end
    looked = looked + 1
    return true
  end
  local id, order = sub(member, 18), sub(member, 10, 17)
  local job, held = call("HGET", JOBS, id), call("HGET", HELD, id)
  if not is_held(held) then held = false end
  local score = unpacked(">I8", order) - SCORE_OFFSET
  local flow = (held or is_job(job)) and flow_of(job, held)
  if not is_job(job) or not flow or (held and byte(held, 1) ~= WAITING) then
    call("ZREM", FLOW, member)
    usable(id, job, held)
    looked = looked + 1
    return true
  end
  local holds
  if has_expired(job) then
    leave_lane(id, flow, score)
    expire(id, job, held)
  elseif not fits(job) then
    lanes_aside[lane] = true
  else
    local units, permit = unpacked(">I4", flow, 49), false
    for _, scope in ipairs(scopes_of(flow)) do
      permit = held_by(scope, units)
      if permit then
        holds = scope
        break
      end
    end
    if holds then
      block(holds, permit, flow, order)
    else
      limited_until = held_by("q" .. NO_KEY, units)
      if limited_until then return false end
      for _, scope in ipairs(scopes_of(flow)) do spend(scope, units) end
      spend("q" .. NO_KEY, units)
      lease(id, job, held)
      local fence = max(now, unpacked(">I8", held or job, held and 47 or 1) + 1)
      start_flow(id, fence, flow)
      if few.is_probe(flow, id, fence) then probes[id] = "\1" end
      leave_lane(id, flow, score)
    end
  end
  pass_on(flow, holds)
  looked = looked + 1
  return true
end

if state == "open" then
  local going = true
  while going and leased < leases_max and not stopped() do
    local next = choose()
    if not next then break end
    if next == "ready" then going = visit_ready() else going = visit_lane(next) end
  end
  if leased == 0 and (queue_left == 0 or limited_until) then state = "limited" end
end
end

local reply = { state, now, -1, 0, until_ms, #strays + #misplaced + garbage, "" }
local changed_count, leases, given = #changed, {}, 0
local until_text, packed_now = text_of(until_ms), pack(">I8", now)
local before, token = STATUS[LEASED] .. "\0" .. sub(holder, 1, 16) .. packed_now, sub(holder, 17)
for i = 1, leased do
  local id, job, held = leased_ids[i], leased_jobs[i], leased_helds[i]
  local fence, packed_fence = unpacked(">I8", held or job, held and 47 or 1) + 1, packed_now
  if fence > now then packed_fence = pack(">I8", fence) end
  local crashes = held and sub(held, 27, 30) or sub(job, 9, 12)
  local tail = held and sub(held, 55) or sub(job, 13, 41)
  if not held and byte(job, 37) > 127 then tail = tail .. flow_of(job) end
  changed[changed_count + 1] = id
  changed[changed_count + 2] = before .. crashes .. token .. packed_fence .. tail
  changed_count = changed_count + 2
  leases[given + 1], leases[given + 2] = until_text, id
  reply[given + 8], reply[given + 9] = id .. packed_fence .. crashes .. sub(tail, 1, 4) .. (probes[id] or ""), job
  given = given + 2
end

each("HSET", HELD, changed)
each("ZADD", LEASES, leases)
each("RPUSH", OUTBOX, outcomes)
-- What was taken is the head of the order unless members were passed over.
if skipped == 0 and #strays == 0 and #misplaced == 0 and not (filtered and offset > 0) then
  if #removed > 0 then call("ZREMRANGEBYRANK", READY, 0, #removed - 1) end
else
  each("ZREM", READY, removed)
  each("ZREM", READY, strays)
  each("ZREM", READY, misplaced)
  each("HDEL", JOBS, strays)
  each("HDEL", HELD, strays)
end
if leased > 0 then put(9, packed_now) end
save_flow()
save()
reply[7] = position()

local ready_left = call("ZCARD", READY)
if filtered and leased < leases_max and stopped() then
  local next_offset = offset + skipped
  if next_offset < ready_left then reply[4] = next_offset end
end
local head = call("ZRANGE", DELAYED, 0, 0, "WITHSCORES")
local due = head[2] and tonumber(head[2])
local timer = is_active() and call("ZRANGE", TIMERS, 0, 0, "WITHSCORES")[2]
for _, at in ipairs({ timer or false, limited_until or false }) do
  if at then due = min(due or ceil(at / 1000), ceil(at / 1000)) end
end
if due then reply[3] = due end
publish((moved > 0 or flow_woken) and (ready_left > 0 or (is_active() and any_turn())), grew or outcome_count > 0)
if state == "unverified" then call("PUBLISH", CHANNEL .. "u", "u") end
return reply
