-- Create a job's hash. Of several callers the first one creates the job; the others are told that it exists.
--
-- One script, so that a job is never half created, and so that the log of an earlier job of the same name,
-- which lives on for some days, is not shown to the new job's owner.
--
-- KEYS  1 job hash   2 log stream   3 idempotency key, by which a repeated call is recognised
-- ARGV  1 seconds that the idempotency key lives   2.. names and values of fields
-- returns {"ok", epoch} | {"exists", ""}
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
-- The epoch gives a viewer a cursor before the first event.
redis.call('HSET', job, 'created_at', time[1], 'epoch', epoch)
redis.call('SET', once, epoch, 'EX', ARGV[1])
return {'ok', epoch}
