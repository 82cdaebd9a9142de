-- stats.lua: counts of a shard, in constant time.
--
-- Returns {"stats", now, ready, delayed, leased, outbox, bytes, settings as stored or "", record of the
-- first of the ready or ""}. Writes nothing.
local first = call("ZRANGE", READY, 0, 0)[1]
local record = first and call("HGET", JOBS, first)
return {
  "stats", now, call("ZCARD", READY), call("ZCARD", DELAYED), call("ZCARD", LEASES), call("LLEN", OUTBOX),
  bytes, settings, sound(record) and record or "",
}
