-- Counts a task that a worker was at when it died, once for that worker, and only while the task's run goes on.
--
-- KEYS[1]  imagefleet:running:WORKER  set of the ids of the tasks that it was at
-- KEYS[2]  imagefleet:run:ID        string: the run's options
-- KEYS[3]  imagefleet:crashes:ID    hash: task id -> how many workers died at it
-- ARGV     the task's id, the counts' life time in seconds

if redis.call('SREM', KEYS[1], ARGV[1]) == 1 and redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
    redis.call('EXPIRE', KEYS[3], ARGV[2])
end
