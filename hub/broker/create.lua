-- Make a job's hash, once: the first caller makes the job, the others are told that it exists.
--
-- One script, so that a job is never half made, and what is left of an earlier job of this name (its log, for some days)
-- is not shown to this one's owner. Events that were published before their job was made are kept.
--
-- KEYS  1 the application's hash   2 meta hash   3 log stream   4 key that tells a repeated call from another one
-- ARGV  1 seconds that key lives   2 seconds the meta hash lives   3 owner   4.. names and values of fields
-- gives {"ok", epoch, ""} | {"exists", "", ""}
local job, meta, log, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local repeated = redis.call('GET', once)
if repeated then
  return {'ok', repeated, ''}
end
if redis.call('HEXISTS', job, 'user_id') == 1 then
  return {'exists', '', ''}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ours = redis.call('HMGET', meta, 'epoch', 'position', 'owner', 'ended')
local epoch = ours[1]
if not (ours[2] and not ours[3] and not ours[4] and redis.call('EXISTS', log) == 1) then
  local before = epoch and tonumber(epoch) or 0
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  before = math.max(before, newest and tonumber(string.match(newest[1], '%d+')) or 0)
  epoch = string.format('%.0f', math.max(now, before + 1))
  redis.call('DEL', log, meta)
end
for i = 4, #ARGV, 2 do
  redis.call('HSET', job, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', job, 'created_at', time[1])
-- With an epoch a viewer has a cursor before the first event.
redis.call('HSET', meta, 'epoch', epoch, 'owner', ARGV[3])
redis.call('EXPIRE', meta, ARGV[2])
redis.call('SET', once, epoch, 'EX', ARGV[1])
return {'ok', epoch, ''}
