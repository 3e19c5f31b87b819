-- Notes that a worker can't do a run's work, as long as the run is there.
--
-- KEYS[1]  imagefleet:run:ID    read: a run that has ended gets no keys again
-- KEYS[2]  imagefleet:unfit:ID  hash, written: worker id -> JSON of kind and why
-- ARGV     seconds to live, the worker's id, what it says

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return redis.call('EXPIRE', KEYS[2], ARGV[1])
