-- Adds what a worker process has done to the sums of a run, as long as the run is there.
--
-- KEYS[1]  imagefleet:run:ID    read: a run that has ended gets no keys again
-- KEYS[2]  imagefleet:progress:ID  hash, written
-- ARGV     seconds to live, then field, increment, field, increment, …

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
for place = 2, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[2], ARGV[place], ARGV[place + 1])
end
return redis.call('EXPIRE', KEYS[2], ARGV[1])
