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
-- Returns {"open", "unverified", "foreign", "paused", "braked" or "warming", now, next due ms or -1, next offset, end of the
-- leases ms, members found that are no jobs, position, then for each lease: id, fence u64, crashes u32 and attempt
-- u32 in one string, and the job}.
-- Writes the moved jobs first, then the leased and the expired ones with the outcomes of the latter.
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

local state = "open"
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
end

-- Of the leases to give: ids, jobs, and helds or false.
local leased_ids, leased_jobs, leased_helds, leased = {}, {}, {}, 0
local removed, changed, strays, misplaced = {}, {}, {}, {}
local looked, expired, skipped = 0, 0, 0
local until_ms = ceil((now + lease_us) / 1000)

-- Takes one member of `ready` out, or leaves it. False when the walk ends before it.
local function visit(id, job, held)
  if leased == leases_max or looked == SCAN_MAX or expired == MOVE_MAX then return false end
  looked = looked + 1
  if not is_held(held) then held = false end
  if not is_job(job) then
    strays[#strays + 1] = id
    if held then bytes = bytes - unpacked(">I4", held, 80) end
    return true
  end
  if held and byte(held, 1) ~= WAITING then
    misplaced[#misplaced + 1] = id
    return true
  end
  if unpacked(">i8", job, 42) <= now then
    expired = expired + 1
    local fence = pack(">I8", unpacked(">I8", held or job, held and 47 or 1) + 1)
    local crashes = held and sub(held, 27, 30) or sub(job, 9, 12)
    local before = held and sub(held, 2, 46) or "\0" .. NO_LEASE .. crashes .. NO_TOKEN
    local tail = held and sub(held, 55) or sub(job, 13, 41)
    removed[#removed + 1] = id
    changed[#changed + 1] = id
    changed[#changed + 1] = STATUS[FINISHING] .. before .. fence .. tail
    report(id, NO_LEASE .. crashes .. NO_TOKEN .. fence, sub(tail, 1, 4), EXPIRED, 0, "")
  elseif not filtered or kinds[sub(job, 51, 50 + byte(job, 50))] then
    leased = leased + 1
    leased_ids[leased], leased_jobs[leased], leased_helds[leased] = id, job, held
  else
    skipped = skipped + 1
  end
  return true
end

if state == "open" then
  -- Few of the first page are passed over as a rule; where many are, larger pages follow.
  local rank, page = filtered and offset or 0, min(leases_max, 200)
  local going = leases_max > 0
  while going do
    local ids = call("ZRANGE", READY, rank, rank + page - 1)
    local jobs, helds = fetch(JOBS, ids), fetch(HELD, ids)
    for i = 1, #ids do
      going = going and visit(ids[i], jobs[i], helds[i])
    end
    rank = rank + #ids
    going = going and #ids == page and leased < leases_max
    page = 200
  end
end

local reply = { state, now, -1, 0, until_ms, #strays + #misplaced + garbage, "" }
local removed_count, changed_count, leases, given = #removed, #changed, {}, 0
local until_text, packed_now = text_of(until_ms), pack(">I8", now)
local before, token = STATUS[LEASED] .. "\0" .. sub(holder, 1, 16) .. packed_now, sub(holder, 17)
for i = 1, leased do
  local id, job, held = leased_ids[i], leased_jobs[i], leased_helds[i]
  local fence, packed_fence = unpacked(">I8", held or job, held and 47 or 1) + 1, packed_now
  if fence > now then packed_fence = pack(">I8", fence) end
  local crashes = held and sub(held, 27, 30) or sub(job, 9, 12)
  local tail = held and sub(held, 55) or sub(job, 13, 41)
  removed[removed_count + i] = id
  changed[changed_count + 1] = id
  changed[changed_count + 2] = before .. crashes .. token .. packed_fence .. tail
  changed_count = changed_count + 2
  leases[given + 1], leases[given + 2] = until_text, id
  reply[given + 8], reply[given + 9] = id .. packed_fence .. crashes .. sub(tail, 1, 4), job
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
save()
reply[7] = position()

if filtered and leased < leases_max and (looked == SCAN_MAX or expired == MOVE_MAX) then
  local next_offset = offset + skipped
  if next_offset < call("ZCARD", READY) then reply[4] = next_offset end
end
local head = call("ZRANGE", DELAYED, 0, 0, "WITHSCORES")
if head[2] then reply[3] = tonumber(head[2]) end
publish(moved > 0 and call("ZCARD", READY) > 0, grew or outcome_count > 0)
if state == "unverified" then call("PUBLISH", CHANNEL .. "u", "u") end
return reply
