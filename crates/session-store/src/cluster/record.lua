-- One call on one record, atomically. What `entry.rs` does in memory, with the master's clock.
--
-- KEYS[1] is a hash: rev (revision), val and vend (value and the end of its lease), and for each agent r:<agent> with
-- counter, order, end of lease (20 digits each), 1 or 0 (withdrawn), body. Numbers of 20 digits compare as strings,
-- because Lua's numbers end at 2^53. The key expires with the last lease in it.
-- ARGV[1] is the call. The answer is its outcome, then the record as it is shown.
local key, call = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local FOREVER = '99999999999999999999'
local MAX_REPORTERS = 8

local function digits(number) return string.format('%020.0f', number) end
local now = digits(math.floor(micros / 1000))

local revision, value, value_end, filed, count, ended = '0', nil, nil, {}, 0, {}
local fields = redis.call('HGETALL', key)
for at = 1, #fields, 2 do
  local name, content = fields[at], fields[at + 1]
  if name == 'rev' then revision = content
  elseif name == 'val' then value = content
  elseif name == 'vend' then value_end = content
  else
    local ends = string.sub(content, 41, 60)
    if ends > now then
      filed[string.sub(name, 3)] = {
        counter = string.sub(content, 1, 20), order = string.sub(content, 21, 40), ends = ends,
        live = string.sub(content, 61, 61) == '1', body = string.sub(content, 62) }
      count = count + 1
    else
      ended[#ended + 1] = name
    end
  end
end
if value and value_end <= now then
  value, value_end = nil, nil
  ended[#ended + 1] = 'val'
  ended[#ended + 1] = 'vend'
end

local function visible()
  if value then return true end
  for _, report in pairs(filed) do
    if report.live then return true end
  end
  return false
end

local function show(outcome)
  if not visible() then return { outcome } end
  local remaining = '-1'
  if value and value_end ~= FOREVER then remaining = string.format('%.0f', value_end - now) end
  local answer = { outcome, revision, value or false, remaining }
  for agent, report in pairs(filed) do
    if report.live then
      answer[#answer + 1] = agent
      answer[#answer + 1] = report.counter
      answer[#answer + 1] = report.order
      answer[#answer + 1] = report.body
    end
  end
  return answer
end

local function end_of(lease, before)
  if lease == 'forever' then return FOREVER end
  if lease == 'keep' then return before or FOREVER end
  return digits(now + lease)
end

-- Writes what has changed, in the same fields that were read.
local function keep()
  if value == nil and count == 0 then
    redis.call('DEL', key)
    return
  end
  for _, name in ipairs(ended) do redis.call('HDEL', key, name) end
  redis.call('HSET', key, 'rev', revision)
  local last = value and value_end or '0'
  for _, report in pairs(filed) do
    if report.ends > last then last = report.ends end
  end
  if last == FOREVER then redis.call('PERSIST', key)
  else redis.call('PEXPIREAT', key, string.format('%.0f', tonumber(last))) end
end

local function next_revision() revision = string.format('%.0f', math.max(micros, revision + 1)) end

local function write_report(agent, report)
  local flag = report.live and '1' or '0'
  redis.call('HSET', key, 'r:' .. agent, report.counter .. report.order .. report.ends .. flag .. report.body)
end

if call == 'get' then return show('ok') end

if call == 'swap' then
  local expected, bytes, lease = ARGV[2], ARGV[3], ARGV[4]
  local seen = visible() and revision or ''
  if seen ~= expected then return show('lost') end
  value_end = end_of(lease, value_end)
  value = bytes
  next_revision()
  redis.call('HSET', key, 'val', value, 'vend', value_end)
  -- What had ended is written anew.
  for at = #ended, 1, -1 do
    if ended[at] == 'val' or ended[at] == 'vend' then table.remove(ended, at) end
  end
  keep()
  return { 'done', revision }
end

if call == 'renew' then
  if value == nil or revision ~= ARGV[2] then return { 'no' } end
  value_end = end_of(ARGV[3], value_end)
  redis.call('HSET', key, 'vend', value_end)
  keep()
  return { 'yes' }
end

if call == 'remove' then
  if value == nil and count == 0 then return { 'no' } end
  if ARGV[2] ~= '' and ARGV[2] ~= revision then return { 'no' } end
  redis.call('DEL', key)
  return { 'yes' }
end

if call == 'report' then
  local agent, counter, body, lease = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local report = filed[agent]
  if report then
    if report.counter > counter or (report.counter == counter and not report.live) then
      return { 'stale', report.counter }
    end
  else
    if count >= MAX_REPORTERS then return { 'crowded' } end
    report = { counter = '' }
    count = count + 1
  end
  next_revision()
  if report.counter ~= counter then report.order = digits(tonumber(revision)) end
  report.counter, report.body, report.live = counter, body, true
  report.ends = end_of(lease, report.ends)
  filed[agent] = report
  for at = #ended, 1, -1 do
    if ended[at] == 'r:' .. agent then table.remove(ended, at) end
  end
  write_report(agent, report)
  keep()
  return show('filed')
end

if call == 'withdraw' then
  local agent, counter = ARGV[2], ARGV[3]
  local report = filed[agent]
  if report and report.live and report.counter <= counter then
    next_revision()
    report.counter, report.live, report.body = counter, false, ''
    write_report(agent, report)
    keep()
  end
  return show('ok')
end

return redis.error_reply('unknown call ' .. call)
