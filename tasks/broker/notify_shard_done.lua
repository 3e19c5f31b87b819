-- Notifies a run's producer of a completed shard, if the run still exists.
--
-- KEYS[1]  imagefleet:run:ID   read: an ended run gets no new keys
-- KEYS[2]  imagefleet:done:ID  list, written
-- ARGV     seconds until the list expires, the message

if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
end
redis.call('RPUSH', KEYS[2], ARGV[2])
return redis.call('EXPIRE', KEYS[2], ARGV[1])
