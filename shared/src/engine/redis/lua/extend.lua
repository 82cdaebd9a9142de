-- extend.lua: moves the end of leases forward, never back.
--
-- ARGV[2] from now, µs
-- ARGV[3] number of leases, their ids all different
-- ARGV[4…] for each: id, token and fence u64 in one string
--
-- Returns {"extended", position, a number per lease}: -1 gone, -2 stolen, else twice its end in ms, plus 1 when
-- somebody asked to stop the job. Writes the ends of the leases that are held and move.
local wanted_ms = ceil((now + tonumber(ARGV[2])) / 1000)
local count = tonumber(ARGV[3])
local ids = {}
for i = 1, count do ids[i] = ARGV[2 * i + 2] end
local helds, ends = fetch(HELD, ids), count > 0 and call("ZMSCORE", LEASES, unpack(ids))

local reply, moved, alive = { "extended", position() }, {}, false
for i = 1, count do
  local held, proof = helds[i], ARGV[2 * i + 3]
  local answer = -1
  if is_held(held) and byte(held, 1) == LEASED and ends[i] then
    answer = unpacked(">I8", held, 47) < unpacked(">I8", proof, 17) and -1 or -2
    if sub(held, 31, 54) == proof then
      local until_ms = tonumber(ends[i])
      if wanted_ms > until_ms then
        until_ms = wanted_ms
        moved[#moved + 1] = text_of(until_ms)
        moved[#moved + 1] = ids[i]
      end
      alive = true
      answer = 2 * until_ms + byte(held, 2)
    end
  end
  reply[i + 2] = answer
end
each("ZADD", LEASES, moved)
if alive then
  note_seen()
  save()
end
return reply
