-- Counts a crash for a task that was running in a dead worker. The worker counts once, and only while the task's run
-- exists.
--
-- KEYS[1]  imagefleet:running:WORKER  set: ids of the tasks that were running in the worker
-- KEYS[2]  imagefleet:run:ID          string: the run's options
-- KEYS[3]  imagefleet:crashes:ID      hash: task id -> number of workers that died while they ran it
-- ARGV     the task's id, seconds until the counts expire

if redis.call('SREM', KEYS[1], ARGV[1]) == 1 and redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
    redis.call('EXPIRE', KEYS[3], ARGV[2])
end
