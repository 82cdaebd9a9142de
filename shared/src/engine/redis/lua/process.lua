-- process.lua: which process serves the shard, for the scripts of gates. Comes after shard.lua.
--
-- It is the id of its history of writes: a server draws another one when it starts and when it is made a primary.
local function process()
  return string.match(call("INFO", "replication"), "master_replid:(%x+)") or ""
end
