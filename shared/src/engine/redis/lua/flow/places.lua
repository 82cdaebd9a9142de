-- flow/places.lua: where lanes and shares stand, how they get there and leave.

-- Writes which leases count for which scopes, as far as that was put off: what writes only a part of it must not have written
-- yet that the leases began or ended.
function few.write_counts()
  few.write_entered()
  if #seen.gone > 0 then each("ZREM", FLOW, seen.gone) end
  if #seen.counted > 0 then each("ZADD", FLOW, seen.counted) end
  seen.gone, seen.counted = {}, {}
end

-- Whether any lane is aside.
function few.any_aside()
  if seen.aside == nil then seen.aside = first_of("t") ~= nil end
  return seen.aside
end

-- Where a lane stands that is aside, or false.
function few.aside_at(lane)
  if seen.places[lane] == nil then seen.places[lane] = is_active() and call("HGET", FACTS, "b" .. lane) or false end
  return seen.places[lane]
end

-- Looks up together what asking for these lanes one by one would.
function few.load_places(lanes)
  local names, wanted = {}, {}
  for _, lane in ipairs(lanes) do
    if seen.places[lane] == nil then
      seen.places[lane] = false
      wanted[#wanted + 1] = lane
      names[#names + 1] = "b" .. lane
    end
  end
  if #wanted == 0 or not is_active() then return end
  for i, place in ipairs(fetch(FACTS, names)) do seen.places[wanted[i]] = place end
end

-- Notes where a lane stands that is aside; false: it is not.
function few.note_place(lane, place)
  seen.places[lane] = place
  if place then call("HSET", FACTS, "b" .. lane, place) else call("HDEL", FACTS, "b" .. lane) end
end

-- A job with this flow, where it is looked for as long as its lane is not aside.
function few.own_turn(flow, order, id)
  return "u" .. sub(flow, 9, 24) .. order .. sub(flow, 1, 8) .. id
end

-- The first own turns of a kind and share, at most so many, whether or not their lanes are aside.
function few.page_of(kind, share, count)
  local prefix = "[u" .. kind .. share
  -- No order begins with this byte.
  return call("ZRANGE", FLOW, prefix, prefix .. "\255", "BYLEX", "LIMIT", "0", text_of(count))
end

-- Some of the first jobs of a kind and share whose lanes are not aside, at most so many, as their own turns; and whether these
-- are all. Forgets those on the way whose lanes are: as many as a lane had jobs when it was put aside, once, at about 1 µs each.
-- `page`: what few.page_of has found, if it was asked.
function few.own_turns(kind, share, count, page)
  local found, last = {}, false
  if not few.any_aside() then
    page = page or few.page_of(kind, share, count)
    return page, #page < count
  end
  repeat
    local members, lanes, met = page or few.page_of(kind, share, count), {}, {}
    page = nil
    for i, member in ipairs(members) do lanes[i] = sub(member, 26, 33) end
    few.load_places(lanes)
    for i, member in ipairs(members) do
      local list = seen.places[lanes[i]] and met or found
      list[#list + 1] = member
    end
    each("ZREM", FLOW, met)
    last = #members < count
    count = min(count * 4, 400)
  until #found > 0 or last
  return found, last
end

-- Whether a share has a lane at a place.
function few.has_turn(place, share)
  return (byte(place) == 102 and few.own_turns(sub(place, 2), share, 1)[1] or first_of("t" .. place .. share)) ~= nil
end

-- The tag with which a share stands at a place, or false.
local function noted_of(share, place)
  if seen.nobody and byte(place) ~= 102 then return false end
  local name = share .. place
  local noted = seen.noted[name]
  if noted == nil then
    local value = is_active() and call("HGET", FACTS, "n" .. name)
    noted = value and #value == 8 and (unpacked(">I8", value)) or false
    seen.noted[name] = noted
  end
  return noted
end

-- Looks up together what asking for the tags of shares at places one by one would; the names are those of shares and places.
local function load_noted(names)
  local wanted, fields = {}, {}
  for _, name in ipairs(names) do
    if seen.noted[name] == nil then
      wanted[#wanted + 1] = name
      fields[#fields + 1] = "n" .. name
    end
  end
  if #wanted == 0 or not is_active() then return end
  for i, value in ipairs(fetch(FACTS, fields)) do
    seen.noted[wanted[i]] = value and #value == 8 and (unpacked(">I8", value)) or false
  end
end

-- The same, and whether they stand there: a tag without its share is left of what the store has lost.
function few.load_standing(names)
  load_noted(names)
  local noted, members = {}, {}
  for _, name in ipairs(names) do
    local tag = seen.noted[name]
    if tag and seen.stored[name] == nil and not seen.found[name] then
      noted[#noted + 1] = name
      members[#members + 1] = "f" .. sub(name, 9) .. pack(">I8", tag) .. sub(name, 1, 8)
    end
  end
  for first = 1, #members, 400 do
    for i, score in ipairs(call("ZMSCORE", FLOW, unpack(members, first, min(first + 399, #members)))) do
      local name = noted[first + i - 1]
      if score then seen.found[name] = true else seen.noted[name] = false end
    end
  end
end

-- The same, and looks up those of the shares that do not stand there, given in the order of the names.
function few.load_newcomers(names, keys)
  few.load_standing(names)
  local wanted = {}
  for i, name in ipairs(names) do
    if not seen.noted[name] then wanted[#wanted + 1] = keys[i] end
  end
  few.load_shares(wanted)
end

-- Writes the tags of shares at places that were put off.
local function write_tags()
  if not next(seen.stored) then return end
  seen.levels = {}
  local stored, gone, new, left, tags = seen.stored, {}, {}, {}, {}
  local gone_count, new_count, tag_count = 0, 0, 0
  seen.stored = {}
  for name, before in pairs(stored) do
    local share, place, tag = sub(name, 1, 8), sub(name, 9), seen.noted[name]
    seen.found[name] = tag and true or nil
    if before ~= tag then
      if before then
        gone_count = gone_count + 1
        gone[gone_count] = "f" .. place .. pack(">I8", before) .. share
      end
      if tag then
        local noted = pack(">I8", tag)
        new[new_count + 1], new[new_count + 2] = "0", "f" .. place .. noted .. share
        tags[tag_count + 1], tags[tag_count + 2] = "n" .. name, noted
        new_count, tag_count = new_count + 2, tag_count + 2
        if not before then
          new[new_count + 1], new[new_count + 2] = "0", "s" .. name
          new_count = new_count + 2
        end
      else
        gone_count = gone_count + 1
        gone[gone_count] = "s" .. name
        left[#left + 1] = "n" .. name
      end
    end
  end
  each("ZREM", FLOW, gone)
  each("ZADD", FLOW, new)
  each("HDEL", FACTS, left)
  each("HSET", FACTS, tags)
end

-- Notes that a kind has lanes which may be chosen, if it is asked for.
function few.add_kind(kind)
  if seen.kinds[kind] or (few.wanted and not few.wanted[kind]) then return end
  seen.kinds[kind] = true
  few.free_kinds[#few.free_kinds + 1] = kind
end

-- Has noted where a share stands at a place; false: it has no lanes there. Nobody may ask who is next before it is written. The
-- name is that of share and place, whose tag is known.
local function note_name(name, tag)
  local before = seen.noted[name]
  if before == tag then return end
  if seen.stored[name] == nil then seen.stored[name] = before end
  seen.noted[name] = tag
  if byte(name, 9) == 102 then
    local kind = sub(name, 10)
    seen.heads[kind] = nil
    few.add_kind(kind)
  end
end

local function note_later(share, place, tag)
  local before = noted_of(share, place)
  if before ~= tag then note_name(share .. place, tag) end
end

-- Has the tag noted that a share has now.
function few.note_tag(share, place)
  note_later(share, place, tag_of(share))
end

-- Notes at once where a share stands at a place.
local function set_noted(share, place, tag)
  note_later(share, place, tag)
  write_tags()
end

-- Where shares wait to be next for jobs of a kind.
function few.contested(kind)
  local limits = few.limits_of_kind(kind)
  if not limits.contested then
    limits.contested = limits.limited and { "f" .. kind, "k" .. kind, "l" .. kind } or { "f" .. kind }
  end
  return limits.contested
end

-- Where a share begins that is new among those that compete for a kind: where the others are.
function few.level_of(kind)
  local level = virtual
  write_tags()
  for _, place in ipairs(few.contested(kind)) do
    local first = first_of("f" .. place)
    local tag = first and unpacked(">I8", first, 11)
    if tag and tag < level then level = tag end
  end
  return level
end

-- A share has a lane at a place now. One that is new among those that compete begins where the others are: it is not owed for
-- the time in which it had nothing that could start. `later`: the caller has it written before anybody
-- asks who is next.
local function join(place, share, kind, later)
  active, seen.unwanted[place] = true, nil
  local name = share .. place
  if seen.stored[name] == nil and not seen.found[name] then few.load_standing({ name }) end
  if seen.noted[name] then return end
  few.reckon_stale()
  if byte(place) ~= 102 then seen.nobody = false end
  local sort = byte(place)
  if sort == 102 or sort == 107 or sort == 108 then
    load_virtual()
    local competes, level = false, later and seen.levels[kind] or nil
    for _, other in ipairs(few.contested(kind)) do competes = competes or noted_of(share, other) end
    if not competes then
      level = level or few.level_of(kind)
      lift(share, level)
      if later then seen.levels[kind] = level end
    end
    later = later and not competes
  end
  note_later(share, place, tag_of(share))
  if not later then write_tags() end
end

-- Puts a lane that is aside at a place.
local function stand(place, share, order, lane, kind)
  seen.aside = true
  call("ZADD", FLOW, "0", "t" .. place .. share .. order .. lane .. kind)
  join(place, share, kind)
end

-- The share may have no lane there any more.
local function part(place, share)
  if not few.has_turn(place, share) then set_noted(share, place, false) end
end

-- A lane that is aside does not stand there any more.
function few.unstand(place, share, order, lane, kind)
  if call("ZREM", FLOW, "t" .. place .. share .. order .. lane .. kind) == 1 then part(place, share) end
end

-- The lane has another first job.
function few.move_turn(flow, place, from, to)
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  seen.aside = true
  call("ZADD", FLOW, "0", "t" .. place .. share .. to .. lane .. kind)
  if from ~= to then call("ZREM", FLOW, "t" .. place .. share .. from .. lane .. kind) end
end
