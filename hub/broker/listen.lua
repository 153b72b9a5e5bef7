-- What a worker does between two commands: it says which it has handled, that it listens, and asks what waits.
--
-- KEYS  1 the application's hash   2 meta hash   3 stream of commands
-- ARGV  1 milliseconds for which it counts as listening, 0 if it stops   2 id of the command that it has handled, or ""
--       3 seconds the meta hash lives   4.. the terminal statuses
-- gives {"ok", id, command} | {"ok", "", ""} if none waits | {"ended", status, ""}
local job, meta, commands = KEYS[1], KEYS[2], KEYS[3]

if ARGV[2] ~= '' then
  redis.call('XDEL', commands, ARGV[2])
end
if tonumber(ARGV[1]) == 0 then
  redis.call('HDEL', meta, 'listens')
  return {'ok', '', ''}
end
local known = redis.call('HMGET', job, 'status', 'user_id')
local status, owner = known[1], known[2]
for i = 4, #ARGV do
  if status == ARGV[i] then
    redis.call('DEL', commands)
    return {'ended', status, ''}
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', meta, 'listens', string.format('%.0f', now + ARGV[1]))
redis.call('EXPIRE', meta, ARGV[3])

local ours = redis.call('HMGET', meta, 'attempt', 'ended')
local attempt = tostring(tonumber(ours[1] or 1) + (ours[2] and 1 or 0))
for _, entry in ipairs(redis.call('XRANGE', commands, '-', '+')) do
  local fields = {}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  if fields['attempt'] ~= attempt or fields['owner'] ~= owner then
    redis.call('XDEL', commands, entry[1])  -- an earlier attempt's, or an earlier job's of this name
  else
    return {'ok', entry[1], fields['data']}
  end
end
return {'ok', '', ''}
