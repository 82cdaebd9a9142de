-- push.lua: makes jobs claimable. The only script that is refused when Redis has no memory left.
--
-- ARGV[2] not after, µs
-- ARGV[3] number of jobs, their ids all different
-- ARGV[4…] for each: id, record whose score is its due time in ms, envelope
--
-- Returns {"late" or "pushed", now, configured 0 or 1, answers}; answers has a letter per job:
-- A added, P present, F full. Writes the added jobs, in the place that their run_at asks for.
if now > tonumber(ARGV[2]) then return { "late", now, configured and 1 or 0, "" } end
local count = tonumber(ARGV[3])
local ids = {}
for i = 1, count do ids[i] = ARGV[3 * i + 1] end
local present, tombs = fetch(JOBS, ids), standing(ids)
local jobs = call("HLEN", JOBS)

local answers, records, bodies, ready, delayed, replaced, raised = {}, {}, {}, {}, {}, {}, {}
for i = 1, count do
  local id, record, old = ids[i], ARGV[3 * i + 2], present[i]
  local fence, _, _, run_at, due_ms, _, priority, _, length = unpacked(">I8I4I4i8i8I4Bi8I4", record, 3)
  local old_fence, old_length = -1, 0
  if sound(old) then
    old_fence, old_length = unpacked(">I8", old, 3), unpacked(">I4", old, 48)
  end
  if old_fence >= fence or tombs[i] >= fence then
    answers[i] = "P"
  elseif (not old and jobs + 1 > jobs_max) or bytes - old_length + length > bytes_max then
    answers[i] = "F"
  else
    answers[i] = "A"
    bytes = bytes - old_length + length
    if old then replaced[#replaced + 1] = id else jobs = jobs + 1 end
    if tombs[i] >= 0 then raised[#raised + 1] = id end
    local score = score_of(due_ms, priority)
    records[#records + 1] = id
    records[#records + 1] = sub(record, 1, 26) .. pack(">i8", score) .. sub(record, 35)
    bodies[#bodies + 1] = id
    bodies[#bodies + 1] = ARGV[3 * i + 3]
    local order = run_at <= now and ready or delayed
    order[#order + 1] = order == ready and score or due_ms
    order[#order + 1] = id
  end
end

turn()
for _, key in ipairs({ READY, DELAYED, LEASES }) do each("ZREM", key, replaced) end
each("HDEL", TOMBS0, raised)
each("HDEL", TOMBS1, raised)
each("HSET", JOBS, records)
each("HSET", BODIES, bodies)
each("ZADD", READY, ready)
each("ZADD", DELAYED, delayed)
save()
publish(#ready > 0)
return { "pushed", now, configured and 1 or 0, table.concat(answers) }
