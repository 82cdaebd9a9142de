-- confirm.lua: forgets outcomes that the ledger has committed, the oldest first, some at a time.
--
-- ARGV[2] up to and including this seq
-- ARGV[3] how many at most
--
-- Returns {"confirmed", how many}. Removes them, and the jobs that they ended, of which a tombstone stays.
local up_to, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local count, terminal, fences = 0, {}, {}
local detail_bytes = 0
for _, outcome in ipairs(call("LRANGE", OUTBOX, 0, limit - 1)) do
  local seq, id, fence, ended = unpacked(">I8c16I8B", outcome)
  if seq > up_to then break end
  count = count + 1
  detail_bytes = detail_bytes + #outcome - OUTCOME_HEAD
  if TERMINAL[ended] then
    terminal[#terminal + 1] = id
    fences[#fences + 1] = fence
  end
end
if count == 0 then return { "confirmed", 0 } end

local buried, gone, gone_set = {}, {}, {}
for i, record in ipairs(fetch(JOBS, terminal)) do
  local id = terminal[i]
  if sound(record) and not gone_set[id] and byte(record, 1) == FINISHING and unpacked(">I8", record, 3) == fences[i] then
    gone_set[id] = true
    gone[#gone + 1] = id
    buried[#buried + 1] = id
    buried[#buried + 1] = sub(record, 3, 10)
    bytes = bytes - unpacked(">I4", record, 48)
  end
end

local was_braked = braked()
outbox_bytes = outbox_bytes - detail_bytes - count * OUTCOME_BYTES
bytes = bytes - detail_bytes - count * OUTCOME_BYTES
turn()
bury(buried)
each("HDEL", BODIES, gone)
each("HDEL", JOBS, gone)
call("LTRIM", OUTBOX, count, -1)
save()
publish(was_braked and not braked() and call("ZCARD", READY) > 0)
return { "confirmed", count }
