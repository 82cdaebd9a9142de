-- settle.lua: ends attempts, and appends their outcomes.
--
-- ARGV[2] number of settles, their ids all different
-- ARGV[3…] for each: id; fence u64, what the attempt ends as u8 (as in outcomes), delay i64 in µs and
--          token in one string; detail
--
-- Returns {"settled", answers} with a letter per settle: S settled, R repeated, G gone, T stolen.
-- Writes the record, the order and the outcome of each that is settled, and takes its lease away.
local count = tonumber(ARGV[2])
local ids = {}
for i = 1, count do ids[i] = ARGV[3 * i] end
local records = fetch(JOBS, ids)

-- What the store says of a proof of holding; nil: it holds.
local function refusal(record, held_fence, held_token)
  if not sound(record) then return "G" end
  local fence = unpacked(">I8", record, 3)
  if fence < held_fence then return "G" end
  if fence > held_fence then return "T" end
  local split = tail_end(record)
  local token = sub(record, split + 1, split + 16)
  if token == "" or token == NO_TOKEN then return "G" end
  if token ~= held_token then return "T" end
  if byte(record, 1) ~= LEASED then return "R" end
  return nil
end

local answers, changed, ended_leases, ready, delayed = {}, {}, {}, {}, {}

-- Makes a held job what `ended` says.
local function apply(id, record, ended, delay, detail)
  local _, cancel, fence, attempt, crashes, run_at, score, _, priority = unpacked(">BBI8I4I4i8i8I4B", record)
  if cancel == 1 and (ended == RETRY or ended == SNOOZED or ended == RELEASED) then ended = CANCELLED end
  if ended == SUCCEEDED or ended == RETRY or ended == DEAD then attempt = attempt + 1 end
  local status, again_at = FINISHING, 0
  if ended == RETRY or ended == SNOOZED then
    local due_ms = ceil((now + delay) / 1000)
    status, again_at, run_at, score = WAITING, now + delay, now + delay, score_of(due_ms, priority)
    local order = run_at <= now and ready or delayed
    order[#order + 1] = order == ready and score or due_ms
    order[#order + 1] = id
  elseif ended == RELEASED then
    status = WAITING
    ready[#ready + 1] = score
    ready[#ready + 1] = id
  end
  changed[#changed + 1] = id
  changed[#changed + 1] = pack(">BBI8I4I4i8i8", status, cancel, fence, attempt, crashes, run_at, score) .. sub(record, 35)
  ended_leases[#ended_leases + 1] = id
  local split = tail_end(record)
  report(id, fence, ended, again_at, attempt, crashes, sub(record, split + 17, split + 40), detail)
end

for i = 1, count do
  local head = ARGV[3 * i + 1]
  local fence, ended, delay = unpacked(">I8Bi8", head)
  local refused = refusal(records[i], fence, sub(head, 18, 33))
  if not refused then apply(ids[i], records[i], ended, delay, ARGV[3 * i + 2]) end
  answers[i] = refused or "S"
end

each("HSET", JOBS, changed)
each("ZADD", READY, ready)
each("ZADD", DELAYED, delayed)
each("RPUSH", OUTBOX, outcomes)
each("ZREM", LEASES, ended_leases)
save()
publish(#ready > 0, #outcomes > 0)
return { "settled", table.concat(answers) }
