-- Renew the lease on a job, or release it. The worker promises to renew the lease before it lapses.
--
-- The lease is a field of the job's hash and not a key that expires: the hub reads the hash anyway, and must
-- be able to tell a lapsed lease from a job without one. Times are by Redis's clock.
--
-- KEYS  1 job hash
-- ARGV  1 milliseconds from now until the lease lapses, 0 to release it
--       2 the answer to the last renewal, so that another worker's lease is not released
--       3.. the terminal statuses
-- returns {"ok", ms since 1970 | ""} | {"ended", status} | {"unknown", ""}
local job, ttl = KEYS[1], tonumber(ARGV[1])

if redis.call('EXISTS', job) == 0 then
  return {'unknown', ''}
end
if ttl == 0 then
  if redis.call('HGET', job, 'lease') == ARGV[2] then
    redis.call('HDEL', job, 'lease')
  end
  return {'ok', ''}
end
local status = redis.call('HGET', job, 'status')
for i = 3, #ARGV do
  if status == ARGV[i] then
    return {'ended', status}
  end
end
local time = redis.call('TIME')
local until_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ttl)
redis.call('HSET', job, 'lease', until_ms)
return {'ok', until_ms}
