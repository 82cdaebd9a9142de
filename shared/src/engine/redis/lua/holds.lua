-- holds.lua: which limits hold a job back. Comes after flow.lua.
--
-- ARGV[2] id
-- ARGV[3] most leases named per limit
--
-- Returns {"absent"}, or {"holds", then for each limit: its sort (a scope's first byte, or "Q" for the queue's concurrency),
-- most at once or 0, running, until µs or -1, ids of leases in one string}. Writes nothing.
local id, named = ARGV[2], tonumber(ARGV[3])
local job, held = call("HGET", JOBS, id), call("HGET", HELD, id)
if not is_held(held) then held = false end
if not is_job(job) or (held and byte(held, 1) ~= WAITING) then return { "absent" } end
local flow, reply = flow_of(job, held) or flow_of(few.with_flow(job)), { "holds" }

local function add(sort, most, count, from, ids)
  reply[#reply + 1] = sort
  reply[#reply + 1] = most
  reply[#reply + 1] = count
  reply[#reply + 1] = text_of(from)
  reply[#reply + 1] = table.concat(ids)
end

local leases = call("ZCARD", LEASES)
if queue_concurrency > 0 and leases >= queue_concurrency then
  add("Q", queue_concurrency, leases, -1, call("ZRANGE", LEASES, 0, named - 1))
end
local units = flow and unpacked(">I4", flow, 49) or 1
local late = few.held_by("q" .. NO_KEY, units)
if late then add("q", 0, 0, late, {}) end
for _, scope in ipairs(flow and few.scopes_of(flow) or {}) do
  local held_back = few.held_by(scope, units)
  if held_back == true then
    local ids = call("ZRANGE", FLOW, "[r" .. scope, "[r" .. scope .. FAR, "BYLEX", "LIMIT", 0, named)
    for i = 1, #ids do ids[i] = sub(ids[i], 11) end
    add(sub(scope, 1, 1), few.most_of(scope) or 0, byte(scope) == 120 and 0 or few.running_of(scope), -1, ids)
  elseif held_back then
    add(sub(scope, 1, 1), 0, 0, held_back, {})
  end
end
return reply
