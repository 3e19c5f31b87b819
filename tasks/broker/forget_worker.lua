-- Forgets a worker that gives no sign of life and holds nothing any more.
--
-- KEYS[1]  imagefleet:workers       set of worker ids
-- KEYS[2]  imagefleet:heartbeat:WORKER  its sign of life
-- KEYS[3]  imagefleet:running:WORKER  set of the tasks that it was at
-- KEYS[4]  unacked:WORKER           hash of what it holds
-- ARGV     the worker's id, and 1 if its sign of life does not count
--
-- Returns 1 if it is forgotten, else 0: whoever looks next finds what is left.

if ARGV[2] == '1' then
    redis.call('DEL', KEYS[2])
end
local left = redis.call('EXISTS', KEYS[2]) + redis.call('EXISTS', KEYS[3]) + redis.call('EXISTS', KEYS[4])
if left > 0 then
    return 0
end
redis.call('SREM', KEYS[1], ARGV[1])
return 1
