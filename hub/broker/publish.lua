-- Publish events of one job: guard, number, retain, remember, announce.
--
-- One script and not a pipeline, because XADD can fail (out of memory, a replica) where PUBLISH succeeds, and viewers
-- must never see an event that the log does not have. Without the right to PUBLISH the event is in the log, and a hub
-- that watches the job finds it at the position check. Needs Redis >= 7 for `XADD <epoch>-*`.
--
-- KEYS  1 the application's hash   2 meta hash   3 log stream   4 channel   5 idempotency key
-- ARGV  1 largest number of retained events   2 seconds the log lives after this   3 the same after a terminal event
--       4 seconds the meta hash lives after this   5 seconds an idempotency key lives
--       6 "" or "lapsed": only if the job's lease is over (lease.lua)   7 PUBLISH, or SPUBLISH on a cluster
--       8 the number of terminal statuses, which follow;
--       then for each event its body (JSON object text) and its status or ""
-- gives {"ok", last id, "1" if the job has an owner, other terminal statuses of a hub or ""} | {"repeated", last id, ""} | {"ended", status, ""} | {"alive", "", ""}
local job, meta, log, channel, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local repeated = redis.call('GET', once)
if repeated then
  return {'repeated', repeated, ''}
end

local known = redis.call('HMGET', job, 'status', 'user_id')
local status, owner = known[1], known[2]
local terminal = {}
local first = 9 + tonumber(ARGV[8])
for i = 9, first - 1 do
  if status == ARGV[i] then
    return {'ended', status, ''}
  end
  terminal[ARGV[i]] = true
end

local ours = redis.call('HMGET', meta, 'epoch', 'position', 'lease', 'ended', 'owner', 'attempt', 'digest',
  'hub_terminal')
local epoch, position, lease, ended, theirs = ours[1], ours[2], ours[3], ours[4], ours[5]
local attempt, digest = tonumber(ours[6] or 1), ours[7] or ''

-- Redis's clock and not the caller's: several processes ask this at about the same time, and one of them is answered.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[6] == 'lapsed' and not (lease and tonumber(lease) < now) then
  return {'alive', '', ''}
end

-- The epoch is when the log began. A new one begins when the log is gone (deleted, expired, evicted) and took its
-- numbers with it, when it is another owner's, and when the attempt that it is of has ended. So no id is ever given
-- twice, and every old cursor is recognised as old.
local before = epoch and tonumber(epoch) or 0
local restarts = false
if owner and theirs and owner ~= theirs then
  restarts, attempt = true, 1
elseif ended then
  restarts, attempt = true, attempt + 1
elseif redis.call('EXISTS', log) == 0 then
  restarts = position
elseif not position then  -- our hash was lost, and with it what the log's numbers are
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  before = math.max(before, newest and tonumber(string.match(newest[1], '%d+')) or 0)
  restarts = true
end
if restarts or not epoch then
  redis.call('DEL', log)
  epoch, digest = string.format('%.0f', math.max(now, before + 1)), ''
end

local id, new_status
local ends = false
local messages = {}
for i = first, #ARGV, 2 do
  local body = ARGV[i]
  id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[1], epoch .. '-*', 'data', body)
  digest = redis.sha1hex and redis.sha1hex(digest .. id .. body) or ''  -- fakeredis has none
  if ARGV[i + 1] ~= '' then
    new_status = ARGV[i + 1]
    ends = terminal[new_status]
  end
  messages[#messages + 1] = '{"id":"' .. id .. '",' .. string.sub(body, 2)
end
local statuses = table.concat(ARGV, ',', 9, first - 1)
redis.call('HSET', meta, 'epoch', epoch, 'position', id, 'digest', digest, 'attempt', attempt, 'terminal', statuses)
if owner then
  redis.call('HSET', meta, 'owner', owner)
end
if ends then
  redis.call('HSET', meta, 'ended', id)
  redis.call('HDEL', meta, 'lease')
elseif ended then
  redis.call('HDEL', meta, 'ended')
end
if new_status then
  redis.call('HSET', job, 'status', new_status)
end
redis.call('EXPIRE', log, ends and ARGV[3] or ARGV[2])
redis.call('EXPIRE', meta, ARGV[4])
redis.call('SET', once, id, 'EX', ARGV[5])
for _, message in ipairs(messages) do
  redis.call(ARGV[7], channel, message)
end
return {'ok', id, owner and '1' or '', ours[8] and ours[8] ~= statuses and ours[8] or ''}
