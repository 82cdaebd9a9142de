-- dump.lua: a shard's whole state, for tests and diagnosis. Not for large shards.
--
-- Returns {"dump", meta, jobs, helds, ready with scores, delayed with scores, leases with scores, outbox,
-- tombs0, tombs1, reported, flow, timers with scores, idle with scores, rates with scores, facts, refused with scores}, each as its command gives it. Writes nothing.
return {
  "dump", meta, call("HGETALL", JOBS), call("HGETALL", HELD), call("ZRANGE", READY, 0, -1, "WITHSCORES"),
  call("ZRANGE", DELAYED, 0, -1, "WITHSCORES"), call("ZRANGE", LEASES, 0, -1, "WITHSCORES"),
  call("LRANGE", OUTBOX, 0, -1), call("HGETALL", TOMBS0), call("HGETALL", TOMBS1),
  call("SMEMBERS", KEYS[16]), call("ZRANGE", FLOW, 0, -1), 
  call("ZRANGE", TIMERS, 0, -1, "WITHSCORES"), call("ZRANGE", IDLE, 0, -1, "WITHSCORES"),
  call("ZRANGE", RATES, 0, -1, "WITHSCORES"), call("HGETALL", FACTS),
  call("ZRANGE", KEYS[15], 0, -1, "WITHSCORES"),
}
