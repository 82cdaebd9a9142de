-- claim.lua: leases ready jobs to a worker, after promoting what is due and reaping what ran out.
--
-- ARGV[2] most leases
-- ARGV[3] length of the leases, µs
-- ARGV[4] worker and lease token, 32 bytes
-- ARGV[5] how many of the ready to skip
-- ARGV[6] the ledger whose jobs they must be, 16 bytes; empty: any
-- ARGV[7] number of kinds; 0: any
-- ARGV[8…] for each: its key, 8 bytes, and its name in one string
--
-- Returns {"open", "unverified", "foreign", "paused", "braked", "warming" or "limited", now, next due ms or -1, next offset,
-- end of the leases ms, members found that are no jobs, position, then for each lease: id, fence u64, crashes u32 and
-- attempt u32 in one string, one byte more for the probe of a circuit, and the job}.
-- Writes the moved jobs first, then the lanes as it goes, and last the leased and the expired ones with the outcomes of
-- the latter.
local leases_max, lease_us, holder, offset = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local ledger = ARGV[6]
local filtered, kinds, asked = tonumber(ARGV[7]) > 0, {}, nil
if filtered then
  few.wanted, asked = {}, {}
  for i = 1, tonumber(ARGV[7]) do
    kinds[sub(ARGV[7 + i], 9)] = true
    asked[i] = sub(ARGV[7 + i], 1, 8)
    few.wanted[asked[i]] = true
  end
end

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
local limited_until, again = nil, false
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
  local flow = not held and flow_of(job)
  local tail = held and sub(held, 55) or sub(job, 13, 41) .. (flow and flow_tail(flow) or "")
  changed[#changed + 1] = id
  changed[#changed + 1] = STATUS[FINISHING] .. before .. fence .. tail
  report(id, NO_LEASE .. crashes .. NO_TOKEN .. fence, sub(tail, 1, 4), EXPIRED, 0, "")
end

local function lease(id, job, held)
  if retries.interval > 0 and not held and sub(job, 9, 16) == "\0\0\0\0\0\0\0\0" then few.credit_retries() end
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

local any_lane = is_active()

-- Gives a job a lane that waits without one though its kind is limited.
local function to_lane(id, job, held, key)
  local flow = few.flow_of_kind(key)
  local length = byte(job, 50)
  call("HSET", JOBS, id, sub(job, 1, 36) .. string.char(byte(job, 37) % 128 + 128) .. sub(job, 38, 50 + length)
    .. flow_tail(flow) .. sub(job, 51 + length))
  if held then
    call("HSET", HELD, id, sub(held, 1, 78) .. string.char(byte(held, 79) % 128 + 128) .. sub(held, 80, 83) .. flow_tail(flow))
  end
  few.enter_lane(id, flow, (unpacked(">i8", held or job, held and 59 or 17)))
  any_lane = true
end

-- Looks at a job that waits in no lane; whether the walk goes on.
local function visit_ready()
  local id, job, held = page.ids[page.at], page.jobs[page.at], page.helds[page.at]
  if not is_held(held) then held = false end
  if usable(id, job, held) then
    local key, own = kinds_limited > 0 and few.limited_kind(sub(job, 51, 50 + byte(job, 50))), flow_of(job, held)
    if has_expired(job) then
      removed[#removed + 1] = id
      expire(id, job, held)
    elseif own then
      -- It has a lane, and is here by damage.
      removed[#removed + 1] = id
      few.enter_lane(id, own, (unpacked(">i8", held or job, held and 59 or 17)))
      any_lane = true
    elseif key then
      removed[#removed + 1] = id
      to_lane(id, job, held, key)
    elseif not fits(job) then
      skipped = skipped + 1
    else
      if queue_interval > 0 then
        limited_until = few.held_by("q" .. NO_KEY, 1)
        if limited_until then return false end
        few.spend("q" .. NO_KEY, 1)
      end
      removed[#removed + 1] = id
      lease(id, job, held)
      if any_lane then few.start_flow(id, 0) end
    end
  end
  looked, page.at = looked + 1, page.at + 1
  return true
end

if any_lane then few.find_free_kinds(asked) end

-- Of the shares with lanes of the kinds asked for the one with the smallest tag, and of that the kind whose first job is
-- first in ready order: tag, share and kind.
local function next_head()
  local best, whose, of
  local function place_in(share, kind)
    return share .. (few.first_turn("f" .. kind, share) or FAR) .. kind
  end
  for i = 1, #few.free_kinds do
    local kind = few.free_kinds[i]
    local tag, share = few.free_head(kind)
    if tag and (not best or tag < best or (tag == best and few.is_before(place_in(share, kind), place_in(whose, of)))) then
      best, whose, of = tag, share, kind
    end
  end
  return best, whose, of
end

-- Who is next: "ready", or a share with lanes of a kind; nil when there is nobody.
local function choose()
  local ready = next_ready()
  if not any_lane then return ready and "ready" end
  local tag, share, kind = next_head()
  if not tag then return ready and "ready" end
  local unkeyed = ready and few.tag_of(NO_KEY)
  if ready and (unkeyed < tag or (unkeyed == tag and share ~= NO_KEY)) then
    few.advance(unkeyed)
    return "ready"
  end
  few.advance(tag)
  if ready and share == NO_KEY then
    local score, order = tonumber(call("ZSCORE", READY, ready)), few.first_turn("f" .. kind, share)
    if score and order and not few.is_before(order, few.order_of(score)) then return "ready" end
  end
  return share, kind
end

-- The kind that a lease was given of last (nil at first, where many are wanted: any), and of how many shares, and how many jobs
-- of each, are looked at together if it is next once more.
few.run = { kind = leases_max < 8 and "" or nil, shares = 8, jobs = 4 }

-- Looks up jobs of a kind together; those that may be leased as far as they alone tell get a flow.
function few.load_jobs(found, kind)
  local ids, asked = {}, {}
  for i, item in ipairs(found) do ids[i] = item.id end
  local jobs, helds = fetch(JOBS, ids), fetch(HELD, ids)
  for i, item in ipairs(found) do
    local job, held = jobs[i], is_held(helds[i]) and helds[i]
    item.job, item.held, item.looked = job, held, true
    if is_job(job) and not (held and byte(held, 1) ~= WAITING) and not has_expired(job) then
      local flow = flow_of(job, held)
      if flow and sub(flow, 1, 24) == item.lane .. kind .. item.share then
        item.flow = flow
        for _, scope in ipairs(few.rules_of(flow)) do asked[scope] = true end
      end
    end
  end
  few.load_scopes(asked)
end

few.queue_rate = "q" .. NO_KEY

-- Spends what a start with this flow costs if nothing holds it and nobody waits for what it needs; whether it did.
function few.take(flow, units)
  if queue_interval > 0 and few.held_by(few.queue_rate, units) then return false end
  if not few.nobody_waits() and not few.unwanted(few.scopes_of(flow)) then return false end
  local scopes = few.rules_of(flow)
  for i = 1, #scopes do
    if few.held_by(scopes[i], units) then return false end
  end
  for i = 1, #scopes do few.spend(scopes[i], units) end
  if queue_interval > 0 then few.spend(few.queue_rate, units) end
  return true
end

-- Gives leases to this share and those after it that are next for a kind for as long as that is simple, as visit_lane does
-- one by one, and writes once what becomes of their lanes; whether it gave any.
function few.visit_run(share, kind)
  local run, place, any_aside = few.run, "f" .. kind, few.first_of("tf" .. kind) ~= nil
  local entries, last, others_tag, others = few.next_shares(kind, min(run.shares, leases_max - leased))
  if not entries[1] or entries[#entries].key ~= share then return false end
  local all, firsts, lanes, most = {}, {}, {}, max(floor(run.jobs / #entries), 2)
  for i, entry in ipairs(entries) do
    all[i] = entry
    -- One that comes after all of these by the tag that it has now is not given any.
    if not last or few.tag_of(entry.key) <= last.tag then
      entry.page = few.page_of(kind, entry.key, most)
      if few.any_aside() then
        for _, turn in ipairs(entry.page) do lanes[#lanes + 1] = sub(turn, 26, 33) end
      end
    end
  end
  few.load_places(lanes)
  for _, entry in ipairs(entries) do
    if entry.page then
      few.find_jobs(entry, kind, any_aside, most, entry.page)
      firsts[#firsts + 1] = few.job_of(entry, 1)
    end
  end
  few.load_jobs(firsts, kind)
  local ready, ready_order = next_ready(), nil
  local ready_score = ready and tonumber(call("ZSCORE", READY, ready))
  if ready_score then ready_order = few.order_of(ready_score) end
  local began, reckoned = leased, 0
  few.defers = true
  while leased < leases_max and looked < SCAN_MAX and #entries > 0 do
    local entry = entries[#entries]
    local tag = few.tag_of(entry.key)
    share = entry.key
    if tag == entry.tag then
      local item = few.job_of(entry, entry.at)
      if not item then break end
      if leased > began then
        if tag >= others_tag or (entry.before and not few.is_before(item.order, entry.before)) then break end
        if ready and share ~= NO_KEY and tag >= few.tag_of(NO_KEY) then break end
        if ready and share == NO_KEY and not (ready_order and few.is_before(item.order, ready_order)) then break end
      end
      if not item.looked then
        local rest = {}
        for number = entry.at, #entry.members do rest[#rest + 1] = few.job_of(entry, number) end
        few.load_jobs(rest, kind)
      end
      local units = item.flow and unpacked(">I4", item.flow, 49)
      if not units or not few.take(item.flow, units) then break end
      if leased > began then few.advance(tag) end
      looked = looked + 1
      lease(item.id, item.job, item.held)
      local fence = max(now, unpacked(">I8", item.held or item.job, item.held and 47 or 1) + 1)
      entry.at, tag = entry.at + 1, few.start_flow(item.id, fence, item.flow)
      if few.is_probe(item.flow, item.id, fence) then probes[item.id] = "\1" end
      if others[share] then break end
      if not entry.members[entry.at] and not entry.is_all then
        -- The same ones and those after them: they are taken out when the run ends.
        run.jobs = min(run.jobs * 4, 100)
        few.find_jobs(entry, kind, any_aside, 4 * #entry.members)
        if not entry.members[entry.at] and not entry.is_all then break end
      end
    elseif leased > began and reckoned < 100 then
      reckoned = reckoned + 1
      few.note_tag(share, place)
    else
      break
    end
    -- To where it stands now, if that is among these.
    entry.tag, entries[#entries] = tag, nil
    if entry.members[entry.at] and not (last and few.is_next(last, entry)) then
      local low, high = 1, #entries + 1
      while low < high do
        local middle = floor((low + high) / 2)
        if few.is_next(entry, entries[middle]) then low = middle + 1 else high = middle end
      end
      table.insert(entries, low, entry)
    end
  end
  if #entries == 0 and last then run.shares = min(run.shares * 8, 100) end
  few.write_counts()
  few.defers = false
  few.cut(all, kind)
  if leased == began then run.kind, run.shares, run.jobs = "", 8, 4 end
  return leased > began
end

-- Looks at the first job of the first lane of a share; whether the walk goes on.
local function visit_lane(share, kind)
  local place = "f" .. kind
  if (few.run.kind or kind) == kind and few.visit_run(share, kind) then return true end
  local order, lane, _, id = few.first_turn(place, share)
  looked = looked + 1
  if not order then return true end
  if not id then
    local member = few.first_of("j" .. lane)
    if not member or sub(member, 10, 17) ~= order then
      few.mend_turn(place, share, order, lane, kind, member and sub(member, 10, 17))
      return true
    end
    id = sub(member, 18)
  end
  local job, held = call("HGET", JOBS, id), call("HGET", HELD, id)
  if not is_held(held) then held = false end
  local score = unpacked(">I8", order) - SCORE_OFFSET
  local flow = (held or is_job(job)) and flow_of(job, held)
  if not is_job(job) or not flow or sub(flow, 1, 24) ~= lane .. kind .. share or (held and byte(held, 1) ~= WAITING) then
    few.take_stray(share, kind, order, lane, id)
    usable(id, job, held)
    return true
  end
  local holds
  if has_expired(job) then
    few.leave_lane(id, flow, score)
    expire(id, job, held)
  else
    local units, permit, scopes = unpacked(">I4", flow, 49), false, few.scopes_of(flow)
    for _, scope in ipairs(scopes) do
      permit = few.held_by(scope, units)
      if permit then
        holds = scope
        break
      end
    end
    if holds then
      few.block(holds, permit, flow, order)
    else
      limited_until = few.held_by("q" .. NO_KEY, units)
      if limited_until then
        looked = looked - 1
        return false
      end
      for _, scope in ipairs(scopes) do few.spend(scope, units) end
      few.spend("q" .. NO_KEY, units)
      lease(id, job, held)
      local fence = max(now, unpacked(">I8", held or job, held and 47 or 1) + 1)
      few.start_flow(id, fence, flow)
      if few.is_probe(flow, id, fence) then probes[id] = "\1" end
      few.leave_lane(id, flow, score)
      few.run.kind = kind
    end
  end
  few.pass_on(flow, holds)
  return true
end

if state == "open" then
  local going = true
  while going and leased < leases_max and not stopped() do
    local next, kind = choose()
    if not next then break end
    if next == "ready" then going = visit_ready() else going = visit_lane(next, kind) end
  end
  if leased < leases_max and stopped() and ((not filtered and next_ready()) or (any_lane and next_head())) then again = true end
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
  local flow = not held and flow_of(job)
  if flow then tail = tail .. flow_tail(flow) end
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
local ready_left = call("ZCARD", READY)
if ready_left == 0 and is_active() then few.lift_unkeyed() end
few.save_flow()
save()
reply[7] = position()

if filtered and leased < leases_max and stopped() then
  local next_offset = offset + skipped
  if next_offset < ready_left then reply[4] = next_offset end
end
local head = call("ZRANGE", DELAYED, 0, 0, "WITHSCORES")
local due = head[2] and tonumber(head[2])
if due and due >= BOUNDS.behind then due = nil end
local timer = is_active() and call("ZRANGE", TIMERS, 0, 0, "WITHSCORES")[2]
local retry = (retries.interval > 0 or is_active()) and few.next_retry()
for _, at in ipairs({ timer or false, limited_until or false, again and now_ms * 1000 or false, retry or false }) do
  if at then due = min(due or ceil(at / 1000), ceil(at / 1000)) end
end
if due then reply[3] = due end
publish((moved > 0 or few.woken) and (ready_left > 0 or (is_active() and few.any_turn())), grew or outcome_count > 0)
if state == "unverified" then call("PUBLISH", CHANNEL .. "u", "u") end
return reply
