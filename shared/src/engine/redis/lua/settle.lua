-- settle.lua: ends attempts, and appends their outcomes.
--
-- ARGV[2] number of settles, their ids all different
-- ARGV[3…] for each: id; token, fence u64, what the attempt ends as u8 (as in outcomes), delay i64 in
--          µs and how its dependency was u8 (flow.lua) in one string; detail
--
-- Returns {"settled", position, answers} with a letter per settle: S settled, R repeated, G gone, T stolen.
-- Writes the held, the order and the outcome of each that is settled, and takes its lease away.
local count = tonumber(ARGV[2])
local ids = {}
for i = 1, count do ids[i] = ARGV[3 * i] end
local helds = fetch(HELD, ids)

-- Why a proof that is not that of the held is refused.
local function refusal(id, held, proof)
  local head = is_held(held) and sub(held, 47, 54)
  if not head then
    head = call("HGET", JOBS, id)
    if not is_job(head) then return "G" end
  end
  local fence, given = unpacked(">I8", head), unpacked(">I8", proof, 17)
  if fence < given then return "G" end
  if fence > given then return "T" end
  if not is_held(held) or sub(held, 31, 46) == NO_TOKEN then return "G" end
  return "T"
end

local answers, changed, changed_count, ended_leases, settled, ready, delayed = {}, {}, 0, {}, 0, {}, {}
local any_behind = false

-- Makes a job ready.
local function place(id, flow, score)
  if flow then return few.enter_lane(id, flow, score) end
  ready[#ready + 1] = text_of(score)
  ready[#ready + 1] = id
end

-- Makes a held job with this flow what `ended` says.
local function apply(id, held, flow, ended, delay, detail, told)
  if byte(held, 2) == 1 and (ended == RETRY or ended == SNOOZED or ended == RELEASED) then ended = CANCELLED end
  local part, attempt, end_part, status, again_at = sub(held, 3, 54), sub(held, 55, 58), sub(held, 59), FINISHING, 0
  if flow then
    local fence = unpacked(">I8", held, 47)
    -- A probe that finds its dependency still failing is none of the job's attempts, be it the last.
    local spared = told > 1 and byte(held, 2) == 0 and few.is_spared(flow, id, fence)
    if spared and (ended == RETRY or (ended == DEAD and told == 3)) then ended = SNOOZED end
    few.note_dependency(flow, id, fence, told)
  end
  if flow or is_active() then few.end_flow(id, flow, held) end
  if ended == SUCCEEDED or ended == RETRY or ended == DEAD then attempt = plus_one(attempt) end
  if ended == RETRY or ended == SNOOZED then
    again_at, status = now + delay, WAITING
    local due_ms, score = due_and_score(again_at, byte(held, 79))
    end_part = pack(">i8i8", score, again_at) .. sub(held, 75)
    local waits = ended == RETRY and delay == 0 and retries.interval > 0
    if waits and not any_behind and not few.behind(1)[1] and few.retry_units() > 0 then
      few.spend_retries(1)
      waits = false
    end
    any_behind = any_behind or waits
    if waits then few.note_bucket() end
    if again_at > now or waits then
      delayed[#delayed + 1] = text_of(due_ms + (waits and BOUNDS.behind or 0))
      delayed[#delayed + 1] = id
    else
      place(id, flow, score)
    end
  elseif ended == RELEASED then
    status = WAITING
    place(id, flow, (unpacked(">i8", held, 59)))
  end
  changed[changed_count + 1] = id
  changed[changed_count + 2] = STATUS[status] .. (byte(held, 2) == 1 and "\1" or "\0") .. part .. attempt .. end_part
  changed_count = changed_count + 2
  settled = settled + 1
  ended_leases[settled] = id
  report(id, part, attempt, ended, again_at, detail)
end

local flows, shares = {}, { NO_KEY }
for i = 1, count do
  local flow = is_held(helds[i]) and flow_of(nil, helds[i])
  if flow then flows[i], shares[#shares + 1] = flow, sub(flow, 17, 24) end
end
if is_active() then few.load_shares(shares) end
few.defers = true
for i = 1, count do
  local id, held, settle = ids[i], helds[i], ARGV[3 * i + 1]
  if not is_held(held) or sub(held, 31, 54) ~= sub(settle, 1, 24) then
    answers[i] = refusal(id, held, settle)
  elseif byte(held, 1) ~= LEASED then
    answers[i] = sub(held, 31, 46) == NO_TOKEN and "G" or "R"
  else
    local ended, delay = byte(settle, 25), 0
    if ended == RETRY or ended == SNOOZED then delay = unpacked(">i8", settle, 26) end
    apply(id, held, flows[i], ended, delay, ARGV[3 * i + 2], byte(settle, 34))
    answers[i] = "S"
  end
end

few.write_counts()
each("HSET", HELD, changed)
each("ZADD", READY, ready)
each("ZADD", DELAYED, delayed)
each("RPUSH", OUTBOX, outcomes)
local ended_count = each("ZREM", LEASES, ended_leases)
few.save_flow()
save()
publish(#ready > 0 or few.woken, outcome_count > 0, nil, ended_count)
return { "settled", position(), table.concat(answers) }
