-- Renew the lease on a job, or give it back: until then its worker promises to be heard of.
--
-- Kept in the job's hash and not in a key that expires, because whoever watches the job reads the hash anyway, and must be able
-- to tell a lease that lapsed from one that never was. By Redis's clock.
--
-- KEYS  1 job hash
-- ARGV  1 milliseconds it holds from now on, 0 to give it back   2 what the last renewal answered: another worker's lease is not
--       given back   3.. the terminal statuses
-- gives {"ok", ms since 1970 | ""} | {"ended", status} | {"unknown", ""}
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
