-- Records a worker as unfit for a run, if the run still exists.
--
-- KEYS[1]  imagefleet:run:ID    read: an ended run gets no new keys
-- KEYS[2]  imagefleet:unfit:ID  hash, written: worker id -> JSON of kind and why
-- ARGV     seconds until the record expires, the worker's id, the JSON

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return redis.call('EXPIRE', KEYS[2], ARGV[1])
