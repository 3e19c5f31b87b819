-- Tells a run's producer of a shard, as long as the run is there.
--
-- KEYS[1]  imagefleet:run:ID   read: a run that has ended gets no keys again
-- KEYS[2]  imagefleet:done:ID  list, written
-- ARGV     seconds to live, the message

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
redis.call('RPUSH', KEYS[2], ARGV[2])
return redis.call('EXPIRE', KEYS[2], ARGV[1])
