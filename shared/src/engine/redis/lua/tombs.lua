-- tombs.lua: tombstones, for the scripts that look at them. Comes after shard.lua.
--
-- A tombstone stands in the window in which it was written and in the next one. The two hashes take
-- turns; an idle shard's are dropped by Redis some time after they have ceased to stand.
local TOMBS = { [0] = TOMBS0, [1] = TOMBS1 }
local TOMBS_TTL_MS = 4 * TOMBSTONE_US / 1000
-- A clock that went back keeps them longer, never shorter.
local standing_window = max(floor(now / TOMBSTONE_US), window)

-- The fence of the tombstone that stands for each id, in order, -1 where none does; and whether it lets in the job
-- that waits with this very fence.
local function standing(ids)
  local fences, partly = {}, {}
  for i = 1, #ids do fences[i] = -1 end
  for number = standing_window - 1, standing_window do
    -- Hash `number % 2` belongs to window `number` only if the shard has not been idle since.
    if number == window or number == window - 1 then
      for i, tomb in ipairs(fetch(TOMBS[number % 2], ids)) do
        if tomb and #tomb >= 8 then
          local fence, part = unpacked(">I8", tomb), #tomb > 8
          -- The later one was written with a view of the earlier.
          if fence >= fences[i] then fences[i], partly[i] = fence, part end
        end
      end
    end
  end
  return fences, partly
end

-- The tombstone to write where one stands: the one that keeps out more.
local function grave(fence, part, stands, stands_part)
  if stands > fence or (stands == fence and not stands_part) then fence, part = stands, stands_part end
  return pack(">I8", fence) .. (part and "\1" or "")
end

-- Drops what no longer stands. Call before the first write to either hash.
local function turn()
  if standing_window == window then return end
  call("UNLINK", TOMBS[standing_window % 2])
  if standing_window > window + 1 then call("UNLINK", TOMBS[(standing_window + 1) % 2]) end
  window = standing_window
end

-- Writes tombstones: a list of id, tombstone, id, tombstone…
local function bury(pairs_of_tombs)
  if #pairs_of_tombs == 0 then return end
  local key = TOMBS[window % 2]
  each("HSET", key, pairs_of_tombs)
  call("PEXPIRE", key, TOMBS_TTL_MS)
end
