-- adopt.lua: puts leases back that their holder still works on.
--
-- ARGV[2] length of the leases, µs
-- ARGV[3] worker
-- ARGV[4] number of leases, their ids all different
-- ARGV[5…] for each: id; token, fence u64 and claimed_at i64 in one string; the job as it was claimed, its score by
--          the default unit of priority
--
-- Returns {"adopted", a number per lease}: -1 over, -2 stolen, else its end in ms. Writes the leases that are held:
-- those that were here move, others are put in place of what is here.
local wanted_ms, worker, count = ceil((now + tonumber(ARGV[2])) / 1000), ARGV[3], tonumber(ARGV[4])
local ids = {}
for i = 1, count do ids[i] = ARGV[3 * i + 2] end
local present, helds, tombs = fetch(JOBS, ids), fetch(HELD, ids), standing(ids)
local ends = call("ZMSCORE", LEASES, unpack(ids))

-- What is put back now would be compared with the ledger no more.
local bound = byte(rest, 49) == SEALED or verified()

-- -1 over, -2 stolen, 1 held here, 2 to be put here.
local function judge(job, proof, old, held, tomb)
  local fence = unpacked(">I8", proof, 17)
  if tomb >= fence then return -1 end
  local known, status = is_job(old), held and byte(held, 1) or WAITING
  if not known and not held then return bound and -1 or 2 end
  local old_fence = unpacked(">I8", held or old, held and 47 or 1)
  if status == FINISHING then return (bound or old_fence >= fence) and -1 or 2 end
  if status == LEASED then
    if sub(held, 31, 54) == sub(proof, 1, 24) then return known and 1 or 2 end
    return (bound or old_fence >= fence) and -2 or 2
  end
  if old_fence > fence then return -2 end
  local crashes, attempt = unpacked(">I4", held or old, held and 27 or 9), unpacked(">I4", held or old, held and 55 or 13)
  local counted = crashes > unpacked(">I4", job, 9) or attempt > unpacked(">I4", job, 13)
  -- Of a higher tally, or settled: that lease has ended.
  local ended = counted or (held and sub(held, 31, 46) == sub(proof, 1, 16))
  if old_fence == fence and ended then return -2 end
  return 2
end

local reply, replaced, raised, leases, jobs, changed, alive = { "adopted" }, {}, {}, {}, {}, {}, false
for i = 1, count do
  local id, proof, job = ids[i], ARGV[3 * i + 3], ARGV[3 * i + 4]
  local held = is_held(helds[i]) and helds[i]
  local answer = judge(job, proof, present[i], held, tombs[i])
  if answer > 0 then
    alive = true
    local until_ms = wanted_ms
    if answer == 1 then
      until_ms = max(until_ms, tonumber(ends[i] or 0))
    else
      if is_job(present[i]) or held then
        local old = is_job(present[i]) and present[i]
        bytes = bytes - unpacked(">I4", old or held, old and 38 or 80)
        replaced[#replaced + 1] = id
        few.take_out(id, old, held)
      end
      if tombs[i] >= 0 then raised[#raised + 1] = id end
      local run_at, _, priority, length = unpacked(">i8I4BI4", job, 25)
      local _, score = due_and_score(run_at, priority)
      job = sub(job, 1, 16) .. pack(">i8", score) .. sub(job, 25)
      bytes = bytes + length
      job = few.with_flow(job)
      local flow = flow_of(job)
      jobs[#jobs + 1] = id
      jobs[#jobs + 1] = job
      changed[#changed + 1] = id
      changed[#changed + 1] = STATUS[LEASED] .. "\0" .. worker .. sub(proof, 25, 32) .. sub(job, 9, 12)
        .. sub(proof, 1, 24) .. sub(job, 13, 41) .. (flow and flow_tail(flow) or "")
      few.start_flow(id, unpacked(">I8", proof, 17), flow)
    end
    leases[#leases + 1] = text_of(until_ms)
    leases[#leases + 1] = id
    answer = until_ms
  end
  reply[i + 1] = answer
end

turn()
for _, key in ipairs({ READY, DELAYED }) do each("ZREM", key, replaced) end
local ended = each("ZREM", LEASES, replaced)
each("HDEL", TOMBS0, raised)
each("HDEL", TOMBS1, raised)
each("HSET", JOBS, jobs)
each("HSET", HELD, changed)
each("ZADD", LEASES, leases)
if alive then note_seen() end
few.save_flow()
save()
publish(few.woken, false, nil, ended)
return reply
