-- push.lua: makes jobs claimable. The only script that is refused when Redis has no memory left.
--
-- ARGV[2] not after, µs
-- ARGV[3] generation of the gate as the caller knew it when it looked at the ledger; 0: unknown
-- ARGV[4] ledger, 16 bytes
-- ARGV[5] whether they come from a change that was just committed, 0 or 1
-- ARGV[6] number of jobs, their ids all different
-- ARGV[7] a byte for each: 1 its attempt is under way, 0 it waits
-- ARGV[8…] for each: id, job with its score by the default unit of priority
--
-- Returns {"late" or "pushed", now, gate open 0 or 1, its generation, answers}, or as if there were no gate if it is
-- another ledger's; answers has a letter per job:
-- A added, P present, F full, C crowded. Writes the added jobs, in the place that their run_at asks for. A job of which the
-- store has lost a part is replaced whatever its fence, and keeps the higher one.
if has_gate() and sub(rest, 25, 40) ~= ARGV[4] then return { "late", now, 0, 0, "" } end
if now > tonumber(ARGV[2]) or generation() > max(tonumber(ARGV[3]), 1) then
  return { "late", now, opened() and 1 or 0, generation(), "" }
end
local count, forms = tonumber(ARGV[6]), ARGV[7]
local ids = {}
for i = 1, count do ids[i] = ARGV[2 * i + 6] end
local present, helds = fetch(JOBS, ids), fetch(HELD, ids)
local tombs, partly = standing(ids)
-- Those that wait for their time, retries above all, must not keep out what could run now. What is pushed ahead
-- of its time has a bound of its own.
local waiting = call("ZCARD", DELAYED)
local entries = call("HLEN", JOBS)
local head = entries - waiting
-- What was lost with its jobs is counted no longer once none is left.
if entries == 0 and bytes > outbox_bytes then bytes = outbox_bytes end

local answers, added, ready, delayed, later, replaced, raised = {}, {}, {}, {}, {}, {}, {}
local added_count, ready_count, delayed_count = 0, 0, 0
local last_run_at, last_priority, due_ms, score, packed_score

-- Whether a group has as many waiting as are left to it. Nobody has before four fifths of the room are used.
local unkeyed, refused, order, in_lanes = call("ZCARD", READY), {}, {}, {}
local any_refused, noted = call("ZCARD", KEYS[15]) > 0, {}
local function crowded(group)
  -- Fresh ones would pass those of the group that wait in the ledger.
  if ARGV[5] == "1" then
    if any_refused and noted[group] == nil then noted[group] = call("ZSCORE", KEYS[15], group) end
    if refused[group] or noted[group] then return true end
  end
  local most = BOUNDS.part * max(jobs_max - head, 0)
  if most > head then return false end
  if not in_lanes[group] then
    few.write_entered()
    in_lanes[group] = call("ZLEXCOUNT", FLOW, "[j" .. group, "[j" .. group .. FAR)
  end
  local waiting = in_lanes[group]
  if group == sub(NO_KEY, 1, 3) then waiting = waiting + unkeyed end
  return waiting >= most
end

-- Decides on one job; the letter of the answer.
local function admit(i, id, job, old, held, tomb)
  local old_length = 0
  if old or held or tomb >= 0 then
    local fence = unpacked(">I8", job)
    local same = tomb == fence and (not partly[i] or byte(forms, i) == 1)
    if tomb > fence or same then return "P" end
    held = is_held(held) and held
    local known = is_job(old)
    few.write_entered()
    if known or held then
      local old_fence = unpacked(">I8", held or old, held and 47 or 1)
      if old_fence >= fence then
        if known and placed({ id }, { held })[1] then return "P" end
        job = pack(">I8", old_fence) .. sub(job, 9)
      end
      old_length = unpacked(">I4", known and old or held, known and 38 or 80)
    end
  end
  local run_at, _, priority, length = unpacked(">i8I4BI4", job, 25)
  local is_later = run_at > now
  local flow = flow_of(job)
  local group = flow and sub(flow, 1, 3) or sub(NO_KEY, 1, 3)
  local refusal = bytes - old_length + length > bytes_max and "F"
  if not refusal and not old then
    if is_later then refusal = waiting >= jobs_max and "F" else refusal = crowded(group) and "C" end
  end
  if refusal then
    if not is_later and not refused[group] then
      refused[group] = true
      order[#order + 1] = group
    end
    return refusal
  end
  bytes = bytes - old_length + length
  if old or held then
    replaced[#replaced + 1] = id
    few.take_out(id, is_job(old) and old, held)
    in_lanes = {}
  end
  if old then
    if call("ZSCORE", DELAYED, id) then waiting = waiting - 1 else head = head - 1 end
    if call("ZSCORE", READY, id) then unkeyed = unkeyed - 1 end
  end
  if is_later then waiting = waiting + 1 else head = head + 1 end
  if tomb >= 0 then raised[#raised + 1] = id end

  if run_at ~= last_run_at or priority ~= last_priority then
    last_run_at, last_priority = run_at, priority
    due_ms, score = due_and_score(run_at, priority)
    packed_score = pack(">i8", score)
  end
  if sub(job, 17, 24) ~= packed_score then job = sub(job, 1, 16) .. packed_score .. sub(job, 25) end
  if kinds_limited > 0 then
    job = few.with_flow(job)
    flow = flow_of(job)
  end
  added[added_count + 1], added[added_count + 2] = id, job
  added_count = added_count + 2
  if not is_later and flow then
    few.enter_lane(id, flow, score)
    if in_lanes[group] then in_lanes[group] = in_lanes[group] + 1 end
    if old or held then
      few.write_entered()
      few.mend_lane(flow)
    end
  elseif not is_later then
    ready[ready_count + 1], ready[ready_count + 2] = text_of(score), id
    ready_count = ready_count + 2
    unkeyed = unkeyed + 1
  else
    delayed[delayed_count + 1], delayed[delayed_count + 2] = text_of(due_ms), id
    delayed_count = delayed_count + 2
    later[delayed_count / 2] = id
  end
  return "A"
end

if is_active() then
  local lanes, names, met, shares = {}, {}, {}, {}
  for i = 1, count do
    local flow = flow_of(ARGV[2 * i + 7])
    if flow then
      local name = sub(flow, 17, 24) .. "f" .. sub(flow, 9, 16)
      lanes[#lanes + 1] = sub(flow, 1, 8)
      if not met[name] then
        met[name] = true
        names[#names + 1], shares[#shares + 1] = name, sub(flow, 17, 24)
      end
    end
  end
  few.load_places(lanes)
  few.load_newcomers(names, shares)
end
few.defers = true
for i = 1, count do
  answers[i] = admit(i, ids[i], ARGV[2 * i + 7], present[i], helds[i], tombs[i])
end

few.write_counts()
turn()
for _, key in ipairs({ READY, DELAYED }) do each("ZREM", key, replaced) end
local ended = each("ZREM", LEASES, replaced)
-- Left of one that was lost, it would be given out before its time.
each("ZREM", READY, later)
each("HDEL", HELD, replaced)
each("HDEL", TOMBS0, raised)
each("HDEL", TOMBS1, raised)
each("HSET", JOBS, added)
each("ZADD", READY, ready)
each("ZADD", DELAYED, delayed)
for _, group in ipairs(order) do
  -- What is not noted is found by whoever walks over the ledger.
  if call("ZSCORE", KEYS[15], group) or call("ZCARD", KEYS[15]) < BOUNDS.refused then
    call("ZADD", KEYS[15], text_of(now), group)
  end
end
few.save_flow()
save()
publish(ready_count > 0 or few.woken, false, nil, ended)
return { "pushed", now, opened() and 1 or 0, generation(), table.concat(answers) }
