-- flow/retries.lua: the bucket of the retry budget.

-- What is in the bucket of the retry budget: `us` of the floor, of which a retry costs an interval. It is full at first; of a
-- shard that was opened with a ramp, after a loss that is, it was empty then.
local function saved()
  if bucket then return bucket end
  local full, at = retries.interval * retries.burst, now
  local value, ramp, opened = call("HGET", FACTS, "y"), unpacked(">I8I8", rest, 101)
  local known, us = value and #value == 16, full
  if known then us, at = unpacked(">I8I8", value) end
  if ramp > 0 and (not known or at < opened) then us, at = 0, opened end
  if us < full then us = min(us + max(now - at, 0), full) end
  bucket = { us = min(us, full + BOUNDS.saved * retries.interval), known = known, dirty = false }
  return bucket
end

-- Says also that somebody may wait.
function few.note_bucket()
  local had = saved()
  if not had.known then had.known, had.dirty = true, true end
end

-- A job starts for the first time.
function few.credit_retries()
  if retries.interval == 0 then return end
  local had = saved()
  local us = min(had.us + floor(retries.interval * retries.percent / 100),
    retries.interval * (retries.burst + BOUNDS.saved))
  if us > had.us then had.us, had.known, had.dirty = us, true, true end
end

-- How many retries there are units for.
function few.retry_units()
  return floor(saved().us / retries.interval)
end

function few.spend_retries(count)
  if count > 0 then bucket.us, bucket.dirty, bucket.known = bucket.us - count * retries.interval, true, true end
end

-- Whether any retries may wait for the budget, also for one that is gone.
function few.may_be_behind()
  return retries.interval > 0 or (is_active() and call("HGET", FACTS, "y") ~= false)
end

-- The first of the retries that wait for the budget.
function few.behind(count)
  return call("ZRANGE", DELAYED, BOUNDS.behind, "+inf", "BYSCORE", "LIMIT", "0", count)
end

-- When the first of them may run, µs; nil if none waits.
function few.next_retry()
  if not few.may_be_behind() or not few.behind(1)[1] then return nil end
  return retries.interval == 0 and now or now + max(retries.interval - saved().us, 0)
end

function few.set_timer(scope, at)
  call("ZADD", TIMERS, "LT", text_of(at), scope)
end
local set_timer = few.set_timer
