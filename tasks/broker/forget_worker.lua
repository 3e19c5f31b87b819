-- Removes a worker without a heartbeat from the set of workers, if it holds no messages any more.
--
-- KEYS[1]  imagefleet:workers           set: worker ids
-- KEYS[2]  imagefleet:heartbeat:WORKER  string: its heartbeat
-- KEYS[3]  imagefleet:running:WORKER    set: ids of the tasks that were running in it
-- KEYS[4]  unacked:WORKER               hash: its unacknowledged messages
-- ARGV     the worker's id, and 1 to ignore its heartbeat
--
-- Returns 1 if the worker was removed, else 0. If it was not removed, the next call finds its remaining messages.

if ARGV[2] == '1' then
    redis.call('DEL', KEYS[2])
end
local remaining = redis.call('EXISTS', KEYS[2]) + redis.call('EXISTS', KEYS[3]) + redis.call('EXISTS', KEYS[4])
if remaining > 0 then
    return 0
end
redis.call('SREM', KEYS[1], ARGV[1])
return 1
