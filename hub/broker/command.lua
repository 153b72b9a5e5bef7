-- Keep a command for the worker of a job, if there is one.
--
-- The stream has only commands that no worker has handled yet: each is deleted when it is (listen.lua). So a worker that
-- begins again hears what came meanwhile, and a command that was acknowledged is never trimmed.
--
-- KEYS  1 the application's hash   2 meta hash   3 stream of commands   4 idempotency key
-- ARGV  1 most commands that may wait   2 seconds the stream lives after this   3 seconds an idempotency key lives
--       4 the owner that the job had when the right to command it was looked at   5 the command (JSON object text)
--       6.. the terminal statuses
-- gives {"ok" | "repeated", id} | {"unknown", ""} | {"ended", status} | {"nobody", ""} | {"full", ""}
local job, meta, commands, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local repeated = redis.call('GET', once)
if repeated then
  return {'repeated', repeated}
end
local known = redis.call('HMGET', job, 'status', 'user_id')
local status, owner = known[1], known[2]
if not owner or owner ~= ARGV[4] then
  return {'unknown', ''}
end
for i = 6, #ARGV do
  if status == ARGV[i] then
    return {'ended', status}
  end
end
local ours = redis.call('HMGET', meta, 'lease', 'listens', 'attempt', 'ended')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = math.max(tonumber(ours[1] or 0), tonumber(ours[2] or 0))
if until_ms < now then
  return {'nobody', ''}
end
if redis.call('XLEN', commands) >= tonumber(ARGV[1]) then
  return {'full', ''}
end
-- A command is for the attempt and the owner that it was given to, and for no later job of this name.
local attempt = tonumber(ours[3] or 1) + (ours[4] and 1 or 0)
local id = redis.call('XADD', commands, '*', 'attempt', attempt, 'owner', owner, 'data', ARGV[5])
redis.call('EXPIRE', commands, ARGV[2])
redis.call('SET', once, id, 'EX', ARGV[3])
return {'ok', id}
