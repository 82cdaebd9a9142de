-- tombs.lua: tombstones, for the scripts that look at them. Comes after shard.lua.
--
-- A tombstone stands in the window in which it was written and in the next one. The two hashes take
-- turns; an idle shard's are dropped by Redis some time after they have ceased to stand.
local TOMBS = { [0] = TOMBS0, [1] = TOMBS1 }
local TOMBS_TTL_MS = 4 * TOMBSTONE_US / 1000
-- A clock that went back keeps them longer, never shorter.
local standing_window = max(floor(now / TOMBSTONE_US), window)

-- The highest fence that stands for each id, in order; -1 where none does.
local function standing(ids)
  local fences = {}
  for i = 1, #ids do fences[i] = -1 end
  for number = standing_window - 1, standing_window do
    -- Hash `number % 2` belongs to window `number` only if the shard has not been idle since.
    if number == window or number == window - 1 then
      for i, fence in ipairs(fetch(TOMBS[number % 2], ids)) do
        if fence then fences[i] = max(fences[i], (unpacked(">I8", fence))) end
      end
    end
  end
  return fences
end

-- Drops what no longer stands. Call before the first write to either hash.
local function turn()
  if standing_window == window then return end
  call("UNLINK", TOMBS[standing_window % 2])
  if standing_window > window + 1 then call("UNLINK", TOMBS[(standing_window + 1) % 2]) end
  window = standing_window
end

-- Writes tombstones: a list of id, fence (u64), id, fence…
local function bury(pairs_of_tombs)
  if #pairs_of_tombs == 0 then return end
  local key = TOMBS[window % 2]
  each("HSET", key, pairs_of_tombs)
  call("PEXPIRE", key, TOMBS_TTL_MS)
end
