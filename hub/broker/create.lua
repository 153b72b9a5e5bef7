-- Make a job's hash, once: whoever is first has made the job, and the others see that it exists.
--
-- One script, so that a job is never half made, and what is left of an earlier job of this name (its log, for some days) is not
-- shown to this one's owner.
--
-- KEYS  1 job hash   2 log stream   3 key that tells a repeated call from another one
-- ARGV  1 seconds that key lives   2.. names and values of fields
-- gives {"ok", epoch} | {"exists", ""}
local job, log, once = KEYS[1], KEYS[2], KEYS[3]

local repeated = redis.call('GET', once)
if repeated then
  return {'ok', repeated}
end
if redis.call('HEXISTS', job, 'user_id') == 1 then
  return {'exists', ''}
end

local time = redis.call('TIME')
local epoch = time[1] * 1000 + math.floor(time[2] / 1000)
local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if newest then
  epoch = math.max(epoch, tonumber(string.match(newest[1], '%d+')) + 1)
end
epoch = string.format('%.0f', epoch)
redis.call('DEL', log)
redis.call('HDEL', job, 'position', 'lease')
for i = 2, #ARGV, 2 do
  redis.call('HSET', job, ARGV[i], ARGV[i + 1])
end
-- So that a viewer has a cursor before the first event.
redis.call('HSET', job, 'created_at', time[1], 'epoch', epoch)
redis.call('SET', once, epoch, 'EX', ARGV[1])
return {'ok', epoch}
