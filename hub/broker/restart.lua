-- Begin a job's next attempt: a new log, a new epoch, a status that is not terminal.
--
-- KEYS  1 the application's hash   2 meta hash   3 log stream   4 key that tells a repeated call from another one
-- ARGV  1 seconds that key lives   2 seconds the meta hash lives   3 the status to begin with
-- gives {"ok", attempt, ""} | {"unknown", "", ""}
local job, meta, log, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local repeated = redis.call('GET', once)
if repeated then
  return {'ok', repeated, ''}
end
if redis.call('EXISTS', job) == 0 then
  return {'unknown', '', ''}
end
local ours = redis.call('HMGET', meta, 'epoch', 'attempt')
local attempt = tonumber(ours[2] or 1) + 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = string.format('%.0f', math.max(now, (ours[1] and tonumber(ours[1]) or 0) + 1))
redis.call('DEL', log)
redis.call('HDEL', meta, 'position', 'ended', 'lease', 'digest')
redis.call('HSET', meta, 'epoch', epoch, 'attempt', attempt)
local owner = redis.call('HGET', job, 'user_id')
if owner then
  redis.call('HSET', meta, 'owner', owner)
end
redis.call('HSET', job, 'status', ARGV[3])
redis.call('EXPIRE', meta, ARGV[2])
redis.call('SET', once, attempt, 'EX', ARGV[1])
return {'ok', tostring(attempt), ''}
