-- Publish one event of one job: check that the job runs, number the event, append it to the log, update the
-- hash, publish to the channel.
--
-- One script and not a pipeline, because XADD can fail (out of memory, a replica) where PUBLISH succeeds, and
-- viewers must never see an event that the log does not have. If the caller lacks the right to PUBLISH, the
-- event is in the log and the hub finds it at its next position check. Needs Redis >= 7 for `XADD <epoch>-*`.
--
-- KEYS  1 job hash   2 log stream   3 channel   4 idempotency key
-- ARGV  1 body: JSON object text   2 status or ""   3 largest number of retained events
--       4 seconds the log lives after this event   5 the same after a terminal event
--       6 seconds an idempotency key lives
--       7 "" or "lapsed": publish only if the job's lease has lapsed (lease.lua)   8.. the terminal statuses
-- returns {"ok", id} | {"repeated", id} | {"ended", status} | {"alive", ""}
local job, log, channel, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local body, status = ARGV[1], ARGV[2]

local repeated = redis.call('GET', once)
if repeated then
  return {'repeated', repeated}
end

local known = redis.call('HMGET', job, 'status', 'epoch', 'position', 'lease')
local ends = false
for i = 8, #ARGV do
  if known[1] == ARGV[i] then
    return {'ended', known[1]}
  end
  ends = ends or status == ARGV[i]
end

-- Redis's clock and not the caller's: several hub processes ask at once, and their clocks differ.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[7] == 'lapsed' and not (known[4] and tonumber(known[4]) < now) then
  return {'alive', ''}
end

-- The epoch is when the log began. If the log is gone (deleted, expired, evicted), its numbers are gone too:
-- begin a later epoch, so that no id is given twice and every old cursor is recognised as old. If the hash
-- does not know the log's last position, the log is left from an earlier job of this name whose hash was
-- deleted: delete it, because it belongs to that job's owner.
local epoch, position = known[2], known[3]
local before = epoch and tonumber(epoch) or 0
if redis.call('EXISTS', log) == 0 then
  if position then
    epoch = false
  end
elseif not epoch or not position then
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local theirs = newest and tonumber(string.match(newest[1], '%d+')) or 0
  redis.call('DEL', log)
  if theirs >= before then
    epoch, before = false, theirs
  end
end
if not epoch then
  epoch = string.format('%.0f', math.max(now, before + 1))
end

local id = redis.call('XADD', log, 'MAXLEN', '~', ARGV[3], epoch .. '-*', 'data', body)
redis.call('HSET', job, 'epoch', epoch, 'position', id)
if status ~= '' then
  redis.call('HSET', job, 'status', status)
end
if ends and known[4] then
  redis.call('HDEL', job, 'lease')
end
redis.call('EXPIRE', log, ends and ARGV[5] or ARGV[4])
redis.call('SET', once, id, 'EX', ARGV[6])
redis.call('PUBLISH', channel, '{"id":"' .. id .. '",' .. string.sub(body, 2))
return {'ok', id}
