-- shut.lua: shuts the gate for a verification.
--
-- ARGV[2] not after, µs
-- ARGV[3] ledger, 16 bytes
-- ARGV[4] generation u64
--
-- Returns {"late"}, {"newer"}, or {"shut", the process that serves the shard, emptied 0 or 1}. Writes the gate, and
-- empties the shard first if it was of another ledger.
if now > tonumber(ARGV[2]) then return { "late" } end
local wiped = 0
if has_gate() then
  local present, given = unpacked(">I8", rest, 41), unpacked(">I8", ARGV[4])
  if sub(rest, 25, 40) ~= ARGV[3] then
    wiped = 1
    call("UNLINK", JOBS, HELD, READY, DELAYED, LEASES, OUTBOX, TOMBS0, TOMBS1, FLOW, TIMERS, IDLE, RATES, FACTS, KEYS[15])
    last_seq, bytes, outbox_bytes, window, rest = 0, 0, 0, 0, string.rep("\0", REST_LENGTH)
  elseif present > given or (present == given and not is_shut()) then
    return { "newer" }
  elseif present == given then
    return { "shut", process(), 0 }
  end
end
put(25, ARGV[3] .. ARGV[4] .. string.rep("-", 40) .. string.rep("\0", 28))
call("UNLINK", KEYS[16])
save()
call("PUBLISH", CHANNEL .. "g", "g")
return { "shut", process(), wiped }
