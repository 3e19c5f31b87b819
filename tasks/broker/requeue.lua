-- Requeues a message, unless it was acknowledged or requeued meanwhile. So if several processes call this at once, the
-- message is requeued once.
--
-- KEYS[1]   unacked        hash: delivery tag -> the record of a message, as kombu writes it
-- KEYS[2]   unacked_index  sorted set: delivery tag by time of delivery
-- KEYS[3…]  the queues     kombu pops on the right, so a message pushed there is the next one
-- ARGV      the delivery tag, the message
--
-- Returns 1 if it was requeued, else 0.

redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return 0
end
for queue = 3, #KEYS do
    redis.call('RPUSH', KEYS[queue], ARGV[2])
end
return 1
