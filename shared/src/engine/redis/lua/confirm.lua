-- confirm.lua: forgets outcomes that the ledger has committed, the oldest first, some at a time.
--
-- ARGV[2] up to and including the outcome with this seq, id and fence, and at: u64, 16 bytes, u64, i64
-- ARGV[3] how many at most
-- ARGV[4] among how many of the oldest to look for it if its number does not tell its place
--
-- Returns {"confirmed", how many}; none if it is not there. Removes them, and the jobs that they ended, of which a tombstone stays.
local mark, limit = ARGV[2], tonumber(ARGV[3])
local listed = call("LRANGE", OUTBOX, 0, limit - 1)

local function is_it(outcome)
  return outcome and sub(outcome, 1, 24) == sub(mark, 1, 24) and sub(outcome, 69, 76) == sub(mark, 25, 32)
    and sub(outcome, 90, 97) == sub(mark, 33)
end

-- How many outcomes there are up to the one that is meant; 0 when it is not there.
local function place()
  if #listed == 0 then return 0 end
  -- Numbers have no gaps unless the counter or an outcome was lost, so the first tells the others.
  local ahead = unpacked(">I8", mark) - unpacked(">I8", listed[1])
  if ahead >= 0 and is_it(listed[ahead + 1] or ahead >= #listed and call("LINDEX", OUTBOX, text_of(ahead))) then
    return ahead + 1
  end
  for i, outcome in ipairs(call("LRANGE", OUTBOX, 0, tonumber(ARGV[4]) - 1)) do
    if is_it(outcome) then return i end
  end
  return 0
end

local count = min(#listed, place())
if count == 0 then return { "confirmed", 0 } end
put(1, sub(listed[count], 1, 8))

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
local lifted = was_braked and not braked()
save()
publish(lifted and (call("ZCARD", READY) > 0 or #call("ZRANGE", FLOW, "[ff", "(fg", "BYLEX", "LIMIT", "0", "1") > 0))
return { "confirmed", count }
