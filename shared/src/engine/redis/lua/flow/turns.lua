-- flow/turns.lua: who is first at a place, and who is woken.

-- Has the tag that a share has now noted where it stands for jobs of a kind, before anybody asks who is next; that tag.
function few.refresh(share, kind)
  local stale, tag = seen.stale[kind], tag_of(share)
  if not stale then
    stale = {}
    seen.stale[kind] = stale
  end
  stale[share], seen.any_stale = tag, true
  return tag
end

function few.reckon_stale()
  if not seen.any_stale then return end
  local stale = seen.stale
  seen.stale, seen.any_stale = {}, false
  local names, tags, count = {}, {}, 0
  for kind, tags_of in pairs(stale) do
    for _, place in ipairs(few.contested(kind)) do
      -- At others nobody stands.
      if byte(place) == 102 or not seen.nobody then
        for share, tag in pairs(tags_of) do
          count = count + 1
          names[count], tags[count] = share .. place, tag
        end
      end
    end
  end
  load_noted(names)
  for i = 1, count do
    local name = names[i]
    if seen.noted[name] then note_name(name, tags[i]) end
  end
  write_tags()
end

-- The shares that are next at a place, at most so many, with their tags as noted.
function few.first_shares(place, count)
  local found = {}
  for i, member in ipairs(call("ZRANGE", FLOW, "[f" .. place, "[f" .. place .. FAR, "BYLEX", "LIMIT", "0", count)) do
    found[i] = { tag = unpacked(">I8", member, 11), key = sub(member, 19), member = member }
  end
  return found
end

-- Whether this share is before that one.
function few.is_next(this, that)
  return this.tag < that.tag or (this.tag == that.tag and few.is_before(this.key, that.key))
end

-- Tag and key of the share that is next at a place. Tags grow as jobs run: those before it are reckoned anew.
local function head(place)
  few.reckon_stale()
  local left, count = SHARE.reckoned, 1
  repeat
    local found = few.first_shares(place, count)
    if count > 1 then
      local keys, names = {}, {}
      for i, entry in ipairs(found) do keys[i], names[i] = entry.key, entry.key .. place end
      few.load_shares(keys)
      load_noted(names)
    end
    local moved
    for _, entry in ipairs(found) do
      if left == 0 then break end
      if moved and few.is_next(moved, entry) then
        write_tags()
        return moved.tag, moved.key
      end
      local tag = tag_of(entry.key)
      if tag == entry.tag then
        write_tags()
        return tag, entry.key
      end
      left = left - 1
      -- Left of what the store has lost.
      if noted_of(entry.key, place) ~= entry.tag then call("ZREM", FLOW, entry.member) end
      note_later(entry.key, place, tag)
      entry.tag = tag
      if not (moved and few.is_next(moved, entry)) then moved = entry end
    end
    write_tags()
    count = 30
  until not found[1] or left == 0
  local first = few.first_shares(place, 1)[1]
  if first then return first.tag, first.key end
end

-- The same for jobs of a kind that may be chosen.
function few.free_head(kind)
  local known = seen.heads[kind]
  if known == nil or (known and tag_of(known.share) ~= known.tag) then
    local tag, share = head("f" .. kind)
    known = share and { tag = tag, share = share } or false
    seen.heads[kind] = known
  end
  if known then return known.tag, known.share end
end

-- Fills few.free_kinds with the kinds that have lanes which may be chosen: of those asked for, if any are. Where more have
-- than are asked for it may name others of these, too.
function few.find_free_kinds(asked)
  few.reckon_stale()
  local first, left = first_of("ff"), asked and #asked or math.huge
  while first and left > 0 do
    few.add_kind(sub(first, 3, 10))
    left = left - 1
    first = few.first_after("ff" .. sub(first, 3, 10), "fg")
  end
  if not first then return end
  for _, kind in ipairs(asked) do few.add_kind(kind) end
end

-- The first lane of a share at a place: order, lane, kind, and the id of its first job unless it is aside. A share without
-- lanes does not stand there.
function few.first_turn(place, share)
  local turn = first_of("t" .. place .. share)
  local own = byte(place) == 102 and few.own_turns(sub(place, 2), share, 1)[1]
  if own and not (turn and few.is_before(sub(turn, 19, 34), sub(own, 18, 33))) then
    return sub(own, 18, 25), sub(own, 26, 33), sub(own, 2, 9), sub(own, 34)
  end
  if turn then return sub(turn, 19, 26), sub(turn, 27, 34), sub(turn, 35) end
  local first = first_of("f" .. place)
  if first and sub(first, 19) == share then
    call("ZREM", FLOW, first, "s" .. share .. place)
    seen.levels = {}
  end
  set_noted(share, place, false)
  seen.heads[sub(place, 2)] = nil
end

-- Whether nobody waits for any scope.
function few.nobody_waits()
  if seen.nobody == nil then
    local before = call("ZRANGE", FLOW, "[f", "(ff", "BYLEX", "LIMIT", "0", "1")[1]
    seen.nobody = not (before or call("ZRANGE", FLOW, "[fg", "(g", "BYLEX", "LIMIT", "0", "1")[1])
  end
  return seen.nobody
end

-- Whether nobody waits for this one, as far as that is known or soon found out.
function few.is_unwanted(scope)
  return few.nobody_waits() or seen.unwanted[scope]
end

-- Lets the lane be chosen that is next among those that wait for the scope, if it has a permit.
local function wake_lane(scope)
  if few.is_unwanted(scope) then return end
  few.reckon_stale()
  if not first_of("f" .. scope) then
    seen.unwanted[scope] = true
    return
  end
  local held = held_by(scope, 1)
  if held == true then return end
  if held then return set_timer(scope, held) end
  local _, share = head(scope)
  while share do
    local order, lane, kind = few.first_turn(scope, share)
    if order then
      few.note_place(lane, "f" .. kind)
      stand("f" .. kind, share, order, lane, kind)
      few.unstand(scope, share, order, lane, kind)
      few.woken = true
      return
    end
    _, share = head(scope)
  end
end

-- Puts the right turn of a lane that is aside in the place of one that is left of what the store has lost.
function few.mend_turn(place, share, order, lane, kind, right)
  few.unstand(place, share, order, lane, kind)
  few.note_place(lane, right and "f" .. kind or false)
  if right then stand("f" .. kind, share, right, lane, kind) end
end

-- A job of a lane was replaced: heals a lane that stands nowhere, or waits for what nobody may wake it for.
function few.mend_lane(flow)
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  local place, first = few.aside_at(lane) or "f" .. kind, first_of("j" .. lane)
  if first then
    local order = sub(first, 10, 17)
    if not few.aside_at(lane) then
      call("ZADD", FLOW, "0", few.own_turn(flow, order, sub(first, 18)))
      join(place, share, kind)
    elseif not noted_of(share, place) or not call("ZSCORE", FLOW, "t" .. place .. share .. order .. lane .. kind) then
      place = "f" .. kind
      few.note_place(lane, place)
      stand(place, share, order, lane, kind)
      few.woken = true
    end
    local tag = noted_of(share, place)
    if tag then call("ZADD", FLOW, "0", "f" .. place .. pack(">I8", tag) .. share, "0", "s" .. share .. place) end
  end
  if byte(place) ~= 102 then call("ZADD", TIMERS, "NX", text_of(now), place) end
end

-- Looks for timers that are lost, and for permits that are free though somebody waits for them.
function few.check_timers(limit)
  if not is_active() then return end
  for _, sort in ipairs({ "d", "l", "x", "c", "k" }) do
    local first = first_of("f" .. sort)
    while first and limit > 0 do
      local scope = sub(first, 2, 10)
      if not call("ZSCORE", TIMERS, scope) then
        local held = held_by(scope, 1)
        if held ~= true then set_timer(scope, held or now) end
      end
      limit = limit - 1
      first = few.first_after("f" .. scope, "f" .. string.char(byte(sort) + 1))
    end
  end
end
