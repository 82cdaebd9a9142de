-- extend.lua: moves the end of leases forward, never back.
--
-- ARGV[2] from now, µs
-- ARGV[3] number of leases, their ids all different
-- ARGV[4…] for each: id, fence u64 and token in one string
--
-- Returns {"extended", a number per lease}: -1 gone, -2 stolen, else twice its end in ms, plus 1 when
-- somebody asked to stop the job. Writes the ends of the leases that are held and move.
local wanted_ms = ceil((now + tonumber(ARGV[2])) / 1000)
local count = tonumber(ARGV[3])
local ids = {}
for i = 1, count do ids[i] = ARGV[2 * i + 2] end
local records, ends = fetch(JOBS, ids), call("ZMSCORE", LEASES, unpack(ids))

local reply, moved = { "extended" }, {}
for i = 1, count do
  local record, proof = records[i], ARGV[2 * i + 3]
  local answer = -1
  if sound(record) and byte(record, 1) == LEASED and ends[i] then
    local split = tail_end(record)
    answer = -2
    if sub(record, 3, 10) .. sub(record, split + 1, split + 16) == proof then
      local until_ms = tonumber(ends[i])
      if wanted_ms > until_ms then
        until_ms = wanted_ms
        moved[#moved + 1] = until_ms
        moved[#moved + 1] = ids[i]
      end
      answer = 2 * until_ms + byte(record, 2)
    end
  end
  reply[i + 1] = answer
end
each("ZADD", LEASES, moved)
return reply
