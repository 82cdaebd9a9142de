-- flow/next.lua: who is next for jobs of a kind, and its jobs.

-- The shares that are next, at most so many and the first one last, with their tags as noted; who comes after them, or nil;
-- the tag of who is first of other kinds; and who that is.
function few.next_shares(kind, count)
  few.reckon_stale()
  local place, found, keys, others_tag, others = "f" .. kind, {}, {}, math.huge, {}
  local members = call("ZRANGE", FLOW, "[f" .. place, "[f" .. place .. FAR, "BYLEX", "LIMIT", "0", count + 1)
  local function entry_of(member)
    return { tag = unpacked(">I8", member, 11), key = sub(member, 19), at = 1, page = false, before = false, jobs = {},
      members = {}, is_all = false, order = false, aside = false }
  end
  for i = min(#members, count), 1, -1 do
    local entry = entry_of(members[i])
    local name = entry.key .. place
    if seen.noted[name] == nil then seen.noted[name] = entry.tag end
    -- Another is left of what the store has lost.
    if seen.noted[name] == entry.tag then found[#found + 1], keys[#keys + 1] = entry, entry.key end
  end
  few.load_shares(keys)
  for _, other in ipairs(few.free_kinds) do
    local first = other ~= kind and first_of("ff" .. other)
    if first then
      others_tag = min(others_tag, (unpacked(">I8", first, 11)))
      others[sub(first, 19)] = true
    end
  end
  return found, members[count + 1] and entry_of(members[count + 1]), others_tag, others
end

-- Finds out which jobs of a share are next, at most so many: of the lane that is aside, or of those that are not, of which
-- `page` has the first ones, if it was asked. `before`: the order of who is next of the others of the share, if any; `is_all`: those not found
-- come after nobody.
function few.find_jobs(entry, kind, any_aside, count, page)
  local share = entry.key
  local own, is_last = few.own_turns(kind, share, count, page)
  local first, rival
  if any_aside then
    local turns = "tf" .. kind .. share
    turns = call("ZRANGE", FLOW, "[" .. turns, "[" .. turns .. FAR, "BYLEX", "LIMIT", "0", 2)
    first, rival = turns[1], turns[2]
    if first and own[1] and not few.is_before(sub(first, 19, 34), sub(own[1], 18, 33)) then first, rival = nil, first end
  end
  entry.before = rival and sub(rival, 19, 26) or false
  entry.members, entry.is_all = own, is_last and not first and not rival
  if not first then return end
  entry.order, entry.aside = sub(first, 19, 26), sub(first, 27, 34)
  entry.members = few.jobs_of(entry.aside, count)
  -- Another is left of what the store has lost.
  if entry.members[1] and sub(entry.members[1], 10, 17) ~= entry.order then entry.members = {} end
  local alone = own[1] and sub(own[1], 18, 25)
  if alone and not (rival and few.is_before(entry.before, alone)) then entry.before = alone end
end

-- The job of a share with this number among those found, or nil.
function few.job_of(entry, number)
  local job, member = entry.jobs[number], entry.members[number]
  if job or not member then return job end
  if entry.aside then
    job = { order = sub(member, 10, 17), lane = entry.aside, id = sub(member, 18), share = entry.key, looked = false, job = false,
      held = false, flow = false }
  else
    job = { order = sub(member, 18, 25), lane = sub(member, 26, 33), id = sub(member, 34), share = entry.key, looked = false,
      job = false, held = false, flow = false }
  end
  entry.jobs[number] = job
  return job
end

-- Takes a job out of a lane that is none of it.
function few.take_stray(share, kind, order, lane, id)
  seen.firsts[lane] = nil
  call("ZREM", FLOW, "j" .. lane .. order .. id, "u" .. kind .. share .. order .. lane .. id)
end

-- The jobs of these shares that were looked at are leased, and nobody waits for anything that they need: takes them out of
-- their lanes.
function few.cut(entries, kind)
  local gone, count, place = {}, 0, "f" .. kind
  for _, entry in ipairs(entries) do
    for i = 1, entry.at - 1 do
      local job, member = entry.jobs[i], entry.members[i]
      gone[count + 1] = member
      if entry.aside then
        -- One from before that may be there still.
        gone[count + 2] = "u" .. kind .. entry.key .. job.order .. job.lane .. job.id
      else
        gone[count + 2] = "j" .. job.lane .. job.order .. job.id
      end
      count = count + 2
    end
  end
  each("ZREM", FLOW, gone)
  for _, entry in ipairs(entries) do
    local share, aside = entry.key, entry.at > 1 and entry.aside
    if aside then
      seen.firsts[aside] = nil
      local next = first_of("j" .. aside)
      if not next then
        few.note_place(aside, false)
        few.unstand(place, share, entry.order, aside, kind)
      elseif entry.order ~= sub(next, 10, 17) then
        few.move_turn(aside .. kind .. share, place, entry.order, sub(next, 10, 17))
      end
    elseif entry.at > 1 and entry.at > #entry.members then
      if entry.is_all or not few.has_turn(place, share) then note_later(share, place, false) end
    end
  end
  few.reckon_stale()
  write_tags()
end
