-- gate.lua: a shard's gate, and who has reported to it since it was shut.
--
-- Returns {"gate", the id of the process that serves the shard, the gate as stored, workers that reported}. Writes
-- nothing.
return { "gate", process(), sub(rest, 25, REST_LENGTH), call("SMEMBERS", KEYS[16]) }
