-- process.lua: which process serves the shard, for the scripts of gates. Comes after shard.lua.
--
-- It is the id of its history of writes: a server draws another one when it starts and when it is made a primary. A replica has none: it may be behind.
local function process()
  local info = call("INFO", "replication")
  return string.find(info, "role:master", 1, true) and string.match(info, "master_replid:(%x+)") or ""
end
