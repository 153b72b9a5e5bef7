-- Renew the lease on a job, or give it back: until it ends its worker promises to renew it.
--
-- It is in the meta hash and not in a key that expires: a hub that watches the job reads that hash anyway, and must be
-- able to tell a lease that lapsed from one that never was. By Redis's clock.
--
-- KEYS  1 the application's hash   2 meta hash
-- ARGV  1 milliseconds it holds from now on, 0 to give it back   2 what the last renewal answered: another worker's lease
--       is not given back   3 seconds the meta hash lives   4.. the terminal statuses
-- gives {"ok", ms since 1970 | "", ""} | {"ended", status, ""} | {"unknown", "", ""}
local job, meta, ttl = KEYS[1], KEYS[2], tonumber(ARGV[1])

if redis.call('EXISTS', job) == 0 then
  return {'unknown', '', ''}
end
if ttl == 0 then
  if redis.call('HGET', meta, 'lease') == ARGV[2] then
    redis.call('HDEL', meta, 'lease')
  end
  return {'ok', '', ''}
end
local status = redis.call('HGET', job, 'status')
for i = 4, #ARGV do
  if status == ARGV[i] then
    return {'ended', status, ''}
  end
end
local time = redis.call('TIME')
local until_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ttl)
redis.call('HSET', meta, 'lease', until_ms)
redis.call('EXPIRE', meta, ARGV[3])
return {'ok', until_ms, ''}
