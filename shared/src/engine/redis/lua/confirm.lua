-- confirm.lua: forgets outcomes that the ledger has committed, the oldest first, some at a time.
--
-- ARGV[2] up to and including this seq
-- ARGV[3] how many at most
--
-- Returns {"confirmed", how many}. Removes them, and the jobs that they ended, of which a tombstone stays.
local up_to, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local listed = call("LRANGE", OUTBOX, 0, limit - 1)
if #listed == 0 then return { "confirmed", 0 } end
-- Numbers have no gaps, so the first tells the others.
local count = max(0, min(#listed, up_to - unpacked(">I8", listed[1]) + 1))
if count == 0 then return { "confirmed", 0 } end

local terminal, fences, terminal_count, detail_bytes = {}, {}, 0, 0
for i = 1, count do
  local outcome = listed[i]
  detail_bytes = detail_bytes + #outcome - OUTCOME_HEAD
  if TERMINAL[byte(outcome, 81)] then
    terminal_count = terminal_count + 1
    terminal[terminal_count], fences[terminal_count] = sub(outcome, 9, 24), sub(outcome, 69, 76)
  end
end

local buried, gone, gone_count = {}, {}, 0
for i, held in ipairs(fetch(HELD, terminal)) do
  if is_held(held) and byte(held, 1) == FINISHING and sub(held, 47, 54) == fences[i] then
    gone_count = gone_count + 1
    gone[gone_count] = terminal[i]
    buried[2 * gone_count - 1], buried[2 * gone_count] = terminal[i], fences[i]
    bytes = bytes - unpacked(">I4", held, 80)
  end
end

local was_braked = braked()
outbox_bytes = outbox_bytes - detail_bytes - count * OUTCOME_BYTES
bytes = bytes - detail_bytes - count * OUTCOME_BYTES
turn()
bury(buried)
each("HDEL", HELD, gone)
each("HDEL", JOBS, gone)
call("LTRIM", OUTBOX, count, -1)
save()
publish(was_braked and not braked() and call("ZCARD", READY) > 0)
return { "confirmed", count }
