-- flow/lanes.lua: jobs enter lanes, leave them and count for limits.

-- A lane was looked at, or is gone: those behind it get their chance, but not at the scope that holds it.
local function pass_on(flow, holds)
  for _, scope in ipairs(scopes_of(flow)) do
    if scope ~= holds then wake_lane(scope) end
  end
end

-- Puts a lane that may be chosen aside until the scope has a permit.
local function block(scope, held, flow, order)
  local lane, kind, share = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24)
  -- First: among those that compete it is no newcomer.
  stand(scope, share, order, lane, kind)
  few.note_place(lane, scope)
  call("ZREM", FLOW, "tf" .. kind .. share .. order .. lane .. kind)
  part("f" .. kind, share)
  if held ~= true then set_timer(scope, held) end
end

-- Writes which jobs have entered their lanes, and where their shares stand, as far as that was put off.
function few.write_entered()
  if #seen.entered > 0 then each("ZADD", FLOW, seen.entered) end
  seen.entered = {}
  write_tags()
end

-- Puts a job that is in no order into its lane.
local function enter_lane(id, flow, score)
  local lane, kind, share, order = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24), order_of(score)
  local place, member = few.aside_at(lane), "j" .. lane .. order .. id
  local before = place and (seen.firsts[lane] or first_of("j" .. lane))
  if before then
    call("ZADD", FLOW, "0", member)
    if few.is_before(order .. id, sub(before, 10)) then
      few.move_turn(flow, place, sub(before, 10, 17), order)
    else
      member = before
    end
    seen.firsts[lane] = member
    if byte(place) == 102 then few.woken = true end
    return
  end
  -- Left of what the store has lost: lanes that are aside have jobs.
  if place then few.note_place(lane, false) end
  local entered = seen.entered
  local count = #entered
  entered[count + 1], entered[count + 2], entered[count + 3], entered[count + 4] = "0", member, "0",
    "u" .. kind .. share .. order .. lane .. id
  if not few.defers then few.write_entered() end
  join("f" .. kind, share, kind, few.defers)
  few.woken = true
end

-- Takes a job out of its lane, if it is there. A lane that is empty then passes on what it was next for.
local function leave_lane(id, flow, score)
  local lane, kind, share, order = sub(flow, 1, 8), sub(flow, 9, 16), sub(flow, 17, 24), order_of(score)
  seen.firsts[lane] = nil
  if call("ZREM", FLOW, "j" .. lane .. order .. id, few.own_turn(flow, order, id)) == 0 then return end
  local place = few.aside_at(lane)
  if not place then
    part("f" .. kind, share)
    if not few.unwanted(scopes_of(flow)) and not first_of("j" .. lane) then pass_on(flow) end
    return let_go(share)
  end
  local next = first_of("j" .. lane)
  if not next then
    few.note_place(lane, false)
    few.unstand(place, share, order, lane, kind)
    pass_on(flow)
  elseif few.is_before(order .. id, sub(next, 10)) then
    few.move_turn(flow, place, order, sub(next, 10, 17))
  end
  let_go(share)
end

-- Counts a lease for a scope.
function few.count(scope, id)
  local counted, member = seen.counted, "r" .. scope .. id
  if few.defers then
    counted[#counted + 1] = "0"
    counted[#counted + 1] = member
  else
    call("ZADD", FLOW, "0", member)
  end
  if running[scope] then running[scope] = running[scope] + 1 end
  local sort = byte(scope)
  if seen.running[sort] then seen.running[sort] = seen.running[sort] + 1 end
end

-- Counts it no longer, and lets another have its chance.
function few.uncount(scope, id)
  if few.defers and few.is_unwanted(scope) and not running[scope] then
    seen.gone[#seen.gone + 1] = "r" .. scope .. id
    return
  end
  if call("ZREM", FLOW, "r" .. scope .. id) == 0 then return end
  if running[scope] then running[scope] = running[scope] - 1 end
  wake_lane(scope)
end

-- Jobs that wait in a lane behind its first, that one included.
function few.jobs_of(lane, count)
  return call("ZRANGE", FLOW, "[j" .. lane, "[j" .. lane .. FAR, "BYLEX", "LIMIT", "0", count)
end

-- Whether nobody waits for any of these scopes: then no start gives anybody a chance.
function few.unwanted(scopes)
  if few.nobody_waits() then return true end
  for _, scope in ipairs(scopes) do
    if not few.is_unwanted(scope) then
      if first_of("f" .. scope) then return false end
      seen.unwanted[scope] = true
    end
  end
  return true
end
