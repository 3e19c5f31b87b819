-- Adds a worker process's results to a run's sums, if the run still exists.
--
-- KEYS[1]  imagefleet:run:ID       read: an ended run gets no new keys
-- KEYS[2]  imagefleet:progress:ID  hash, written
-- ARGV     seconds until the sums expire, then field, increment, field, increment, …

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
for i = 2, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1])
end
return redis.call('EXPIRE', KEYS[2], ARGV[1])
