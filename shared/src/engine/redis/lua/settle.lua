-- settle.lua: ends attempts, and appends their outcomes.
--
-- ARGV[2] number of settles, their ids all different
-- ARGV[3…] for each: id; fence u64, token, what the attempt ends as u8 (as in outcomes) and delay i64 in
--          µs in one string; detail
--
-- Returns {"settled", answers} with a letter per settle: S settled, R repeated, G gone, T stolen.
-- Writes the held, the order and the outcome of each that is settled, and takes its lease away.
local count = tonumber(ARGV[2])
local ids = {}
for i = 1, count do ids[i] = ARGV[3 * i] end
local helds = fetch(HELD, ids)

-- What the store says of a proof of holding; nil: it holds.
local function refusal(id, held, proof)
  local head = is_held(held) and held or call("HGET", JOBS, id)
  if not is_job(head) then return "G" end
  local fence = sub(head, 9, 16)
  if fence ~= sub(proof, 1, 8) then
    if unpacked(">I8", fence) < unpacked(">I8", proof) then return "G" end
    return "T"
  end
  if head ~= held then return "G" end
  local token = sub(held, 44, 59)
  if token == NO_TOKEN then return "G" end
  if token ~= sub(proof, 9, 24) then return "T" end
  if byte(held, 42) ~= LEASED then return "R" end
  return nil
end

local answers, changed, changed_count, ended_leases, settled, ready, delayed = {}, {}, 0, {}, 0, {}, {}

-- Makes a held job what `ended` says.
local function apply(id, held, ended, delay, detail)
  local cancel = sub(held, 43, 43)
  if cancel == "\1" and (ended == RETRY or ended == SNOOZED or ended == RELEASED) then ended = CANCELLED end
  local counts = sub(held, 9, 24)
  if ended == SUCCEEDED or ended == RETRY or ended == DEAD then
    counts = sub(held, 9, 16) .. plus_one(sub(held, 17, 20)) .. sub(held, 21, 24)
  end
  local status, again_at, packed_score, middle = FINISHING, 0, sub(held, 1, 8), sub(held, 25, 41)
  if ended == RETRY or ended == SNOOZED then
    again_at = now + delay
    local due_ms, score = due_and_score(again_at, byte(held, 37))
    status, packed_score, middle = WAITING, pack(">i8", score), pack(">i8", again_at) .. sub(held, 33, 41)
    local order = again_at <= now and ready or delayed
    order[#order + 1] = text_of(order == ready and score or due_ms)
    order[#order + 1] = id
  elseif ended == RELEASED then
    status = WAITING
    ready[#ready + 1] = text_of((unpacked(">i8", held)))
    ready[#ready + 1] = id
  end
  changed[changed_count + 1] = id
  changed[changed_count + 2] = packed_score .. counts .. middle .. STATUS[status] .. sub(held, 43)
  changed_count = changed_count + 2
  settled = settled + 1
  ended_leases[settled] = id
  report(id, counts, sub(held, 60), ended, again_at, detail)
end

for i = 1, count do
  local id, held, head = ids[i], helds[i], ARGV[3 * i + 1]
  local refused = refusal(id, held, head)
  if not refused then
    local ended, delay = byte(head, 25), 0
    if ended == RETRY or ended == SNOOZED then delay = unpacked(">i8", head, 26) end
    apply(id, held, ended, delay, ARGV[3 * i + 2])
  end
  answers[i] = refused or "S"
end

each("HSET", HELD, changed)
each("ZADD", READY, ready)
each("ZADD", DELAYED, delayed)
each("RPUSH", OUTBOX, outcomes)
each("ZREM", LEASES, ended_leases)
save()
publish(#ready > 0, outcome_count > 0)
return { "settled", table.concat(answers) }
