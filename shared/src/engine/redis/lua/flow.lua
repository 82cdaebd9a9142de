-- flow.lua: lanes, limits and shares, for the scripts that start, end or move jobs: what they are and how they are kept. Comes after
-- shard.lua; what follows it, in the files of `flow`, is one function with it, which ends with the last of them.
--
-- A lane stands at one place: that of its kind ("f" and the key of the kind) as long as nothing is known to hold it, else at
-- the scope that does. Places and scopes are a byte for their sort and a key of 8 bytes. Most lanes have few jobs and are
-- never held: until something holds one, each of its jobs stands for itself, so that those of many lanes are looked at
-- together. From then until it is empty a lane is *aside*: it has one turn for all of its jobs. FLOW holds all that has no
-- number, by its first byte; scores are u64 with 2^52 added, so that they are in order, tags u64:
--    j lane 8, score 8, id 16                      a job that waits in a lane
--    u kind 8, share 8, score 8, lane 8, id 16     the same of a lane that is not aside, where it is looked for; also of one
--                                                  that was put aside since, until somebody meets it
--    t place 9, share 8, score 8, lane 8, kind 8   where a lane that is aside stands, with the score of its first job
--    f place 9, tag 8, share 8                     the shares at a place, by their tag when it was last reckoned
--    s share 8, place 9                            the same, by share
--    r scope 9, id 16                              a lease that counts for a limit
--    x circuit 8                                   a circuit of which something is known
-- TIMERS  scopes, by when to look at them again, µs
-- IDLE    shares that neither wait nor run, by when they are forgotten, µs
-- RATES   scopes, by when the next unit of their rate is due, µs
-- FACTS   v: virtual time in ms u64, number of shares u64
--         p: as long as there are shares, 65 bytes without meaning: Redis searches a hash linearly of which no value is longer
--            than 64
--         t: when timers were looked at in µs u64, to within a second
--         s and a share: had u64, slots u64, accrued u64, at u64, cost u64
--         n, a share and a place: its tag there u64, as noted
--         b and a lane that is aside: the place where it stands, 9 bytes
--         y: what is in the bucket of the retry budget in µs u64, at u64
--         g: the version u64 of the settings of which the following are part
--         w and a share: its weight u32
--         k and the name of a kind: its key, 8 bytes
--         l and the key of a kind: limits, 16 bytes
-- Limits: concurrency u32 (0: none), interval in µs u64 (0: no rate), burst u32
--         x and the key of a circuit: state u8 (0 closed, 1 open, 2 half open), failures in a row u32, window began at in ms
--         u64, calls u32, failures u32, since u64, next probe at u64, the probe's id, its fence u64
--         m and the key of a circuit: mode u8 (0 its calls decide, 1 open, 2 closed), failures u32, window in ms u64,
--         percent u32, least calls u32, time between probes in µs u64
-- A job's flow: lane 8, kind 8, share 8, concurrency key 8, rate key 8, circuit 8, units u32, weight u32
-- Bytes are compared as numbers: Lua compares text by the server's locale.
local NO_KEY, FAR = string.rep("\0", 8), string.rep("\255", 48)
local function nothing() end
-- What this file has for others, and what is known to all of it. Its functions are there from the first time that one is
-- asked for: a script makes them anew at each call, and those that move no job with keys or limits are spared the time.
local few = { free_kinds = {}, scopes = {}, rules = {}, kind_limits = {}, kind_keys = {}, woken = false,
  save_flow = nothing, write_counts = nothing, write_entered = nothing }
local active

-- Whether there is anything but jobs without keys and limits: else little is looked at.
local function is_active()
  if active == nil then active = call("EXISTS", FLOW, FACTS, RATES) > 0 end
  return active
end

local function load_flow()
-- Of a share of which nothing is known, in ms; how long one is remembered at least and at most, in ms; how many are reckoned
-- anew at most to find out who is next; how old the note may get of when timers were looked at, in µs.
local SHARE = { cost = 1000, idle = 10000, debt = 3600000, reckoned = 200, looked = 1000000 }

-- A score as it stands in members; the last one is remembered.
local last_score, last_order
local function order_of(score)
  if score ~= last_score then last_score, last_order = score, pack(">I8", score + SCORE_OFFSET) end
  return last_order
end

-- Whether these bytes come before those.
function few.is_before(these, those)
  for i = 1, #these do
    local a, b = byte(these, i), byte(those, i)
    if a ~= b then return a < b end
  end
  return false
end

-- The first member of FLOW that begins so.
local function first_of(prefix)
  return call("ZRANGE", FLOW, "[" .. prefix, "[" .. prefix .. FAR, "BYLEX", "LIMIT", "0", "1")[1]
end

-- The first member after all that begin so, and before those that begin with `last`.
function few.first_after(prefix, last)
  return call("ZRANGE", FLOW, "(" .. prefix .. FAR, "(" .. last, "BYLEX", "LIMIT", "0", "1")[1]
end

-- Whether any lane may be chosen.
local function any_turn()
  return first_of("ff") ~= nil
end
