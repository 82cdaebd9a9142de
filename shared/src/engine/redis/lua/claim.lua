-- claim.lua: leases ready jobs to a worker, after promoting what is due and reaping what ran out.
--
-- ARGV[2] most leases
-- ARGV[3] length of the leases, µs
-- ARGV[4] lease token and worker, 32 bytes
-- ARGV[5] how many of the ready to skip
-- ARGV[6] number of kinds; 0: any
-- ARGV[7…] the kinds
--
-- Returns {"open", "unconfigured", "paused" or "braked", now, next due ms or -1, next offset, end of the
-- leases ms, members found without a sound record, then for each lease: id, fence u64, attempt u32 and
-- crashes u32 in one string, and the envelope}.
-- Writes the moved jobs first, then the leased and the expired ones with the outcomes of the latter.
local leases_max, lease_us, holder, offset = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local filtered, kinds = tonumber(ARGV[6]) > 0, {}
for i = 1, tonumber(ARGV[6]) do kinds[ARGV[6 + i]] = true end

local moved = promote(MOVE_MAX)
local reaped = reap(MOVE_MAX)
moved = moved + reaped
-- Before the state is told: outcomes of the reaped may pull the brake.
each("RPUSH", OUTBOX, outcomes)
local grew = #outcomes > 0
outcomes = {}

local state = "open"
if not configured then
  state = "unconfigured"
elseif paused ~= 0 then
  state = "paused"
elseif braked() then
  state = "braked"
end

local leased, removed, changed, strays = {}, {}, {}, {}
local looked, expired, skipped = 0, 0, 0
local until_ms = ceil((now + lease_us) / 1000)

-- Takes one member of `ready` out, or leaves it. False when the walk ends before it.
local function visit(id, record)
  if #leased == leases_max or looked == SCAN_MAX or expired == MOVE_MAX then return false end
  looked = looked + 1
  if not sound(record) then
    strays[#strays + 1] = id
    return true
  end
  local fence, attempt, crashes, _, _, _, _, expires_at = unpacked(">I8I4I4i8i8I4Bi8", record, 3)
  if expires_at <= now then
    expired = expired + 1
    removed[#removed + 1] = id
    changed[#changed + 1] = id
    changed[#changed + 1] = pack(">BBI8", FINISHING, byte(record, 2), fence + 1) .. sub(record, 11)
    report(id, fence + 1, EXPIRED, 0, attempt, crashes, NO_LEASE, "")
  elseif not filtered or kinds[sub(record, 53, 52 + byte(record, 52))] then
    leased[#leased + 1] = { id = id, record = record, fence = max(now, fence + 1) }
  else
    skipped = skipped + 1
  end
  return true
end

if state == "open" then
  local rank, page = filtered and offset or 0, filtered and 200 or min(leases_max, 200)
  local going = leases_max > 0
  while going do
    local ids = call("ZRANGE", READY, rank, rank + page - 1)
    for i, record in ipairs(fetch(JOBS, ids)) do
      going = going and visit(ids[i], record)
    end
    rank = rank + #ids
    going = going and #ids == page and #leased < leases_max
  end
end

local ids = {}
for i, lease in ipairs(leased) do ids[i] = lease.id end
local bodies = fetch(BODIES, ids)
local reply = { state, now, -1, 0, until_ms, 0 }
local leases, holding = {}, holder .. pack(">i8", now)
for i, lease in ipairs(leased) do
  local id, record = lease.id, lease.record
  if bodies[i] then
    removed[#removed + 1] = id
    changed[#changed + 1] = id
    changed[#changed + 1] = pack(">BBI8", LEASED, byte(record, 2), lease.fence) .. sub(record, 11, tail_end(record)) .. holding
    leases[#leases + 1] = until_ms
    leases[#leases + 1] = id
    reply[#reply + 1] = id .. pack(">I8", lease.fence) .. sub(record, 11, 18)
    reply[#reply + 1] = bodies[i]
  else
    strays[#strays + 1] = id
  end
end

each("HSET", JOBS, changed)
each("ZADD", LEASES, leases)
each("RPUSH", OUTBOX, outcomes)
-- What was taken is the head of the order unless members were passed over.
if skipped == 0 and #strays == 0 and not (filtered and offset > 0) then
  if #removed > 0 then call("ZREMRANGEBYRANK", READY, 0, #removed - 1) end
else
  each("ZREM", READY, removed)
  each("ZREM", READY, strays)
  each("HDEL", JOBS, strays)
  each("HDEL", BODIES, strays)
end
save()

if filtered and #leased < leases_max and (looked == SCAN_MAX or expired == MOVE_MAX) then
  local next_offset = offset + skipped
  if next_offset < call("ZCARD", READY) then reply[4] = next_offset end
end
local head = call("ZRANGE", DELAYED, 0, 0, "WITHSCORES")
if head[2] then reply[3] = tonumber(head[2]) end
reply[6] = garbage + #strays
publish(moved > 0 and call("ZCARD", READY) > 0, grew or #outcomes > 0)
return reply
