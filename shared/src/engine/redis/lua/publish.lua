-- publish.lua: appends events to a namespace's live feed, and forgets the oldest beyond its size.
--
-- KEYS[1] events    list    events as 25 bytes each, never looked at
-- KEYS[2] position  string  position of the last event
-- ARGV[2] how many are kept
-- ARGV[3] number of events
-- ARGV[4…] the events
--
-- Returns {"published"}. A feed that is new begins at engine time in µs.
local EVENTS, POSITION = unpack(KEYS)
local kept, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local position = tonumber(redis.call("GET", POSITION) or now)
for first = 1, count, 400 do
  redis.call("RPUSH", EVENTS, unpack(ARGV, 3 + first, 3 + math.min(first + 399, count)))
end
redis.call("LTRIM", EVENTS, -kept, -1)
redis.call("SET", POSITION, string.format("%.0f", position + count))
return { "published" }
