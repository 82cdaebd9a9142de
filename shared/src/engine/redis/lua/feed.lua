-- feed.lua: reads a namespace's live feed.
--
-- KEYS[1] events    list    events as 25 bytes each, never looked at
-- KEYS[2] position  string  position of the last event
-- ARGV[2] events after this position; -1 for none
-- ARGV[3] how many at most
--
-- Returns {"feed", position of the last event, how many are kept, then events}. Where the asked position is
-- not of this feed the events begin with the oldest. Writes the position of a feed that is new, so that a
-- reader's position stays good when the first event comes.
local EVENTS, POSITION = unpack(KEYS)
local after, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local position = tonumber(redis.call("GET", POSITION))
if not position then
  position = now
  redis.call("SET", POSITION, string.format("%.0f", position))
end
local kept = redis.call("LLEN", EVENTS)
local reply = { "feed", position, kept }
if after < 0 or limit == 0 then return reply end
local before_first = position - kept
local skip = 0
if after >= before_first and after <= position then skip = after - before_first end
for i, event in ipairs(redis.call("LRANGE", EVENTS, skip, skip + limit - 1)) do reply[3 + i] = event end
return reply
