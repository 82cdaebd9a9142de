-- stats.lua: counts of a shard, in constant time.
--
-- Returns {"stats", now, ready, delayed, leased, outbox, bytes, settings as stored or "", head of
-- the first of the ready or "", gate open 0 or 1}. Writes nothing.
local first = call("ZRANGE", READY, 0, 0)[1]
return {
  "stats", now, call("ZCARD", READY) + call("ZLEXCOUNT", FLOW, "[j", "(k"), call("ZCARD", DELAYED), call("ZCARD", LEASES), call("LLEN", OUTBOX),
  bytes, settings, first and fetch_heads({ first })[1] or "",
  verified() and 1 or 0,
}
