-- process.lua: which process serves the shard, for the scripts of gates. Comes after shard.lua.
local function process()
  return string.match(call("INFO", "server"), "run_id:(%x+)") or ""
end
