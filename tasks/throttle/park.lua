-- Moves an unacknowledged message to the list of its host's parked messages, with a new delivery tag.
--
-- The message comes from the default exchange, so its routing key is the name of its queue. With the old tag, a late
-- acknowledgement of this delivery would also acknowledge the next one. The new tag also shows that the message was
-- parked before. Such a message counts as on its way to a permit (see serve.lua), until it is parked again.
--
-- KEYS[1]  unacked        hash: delivery tag -> JSON of [message, exchange, routing key], as kombu writes it
-- KEYS[2]  unacked_index  sorted set: delivery tag by time of delivery
-- KEYS[3]  parked list    list of "RUN SHARD QUEUE MESSAGE"; pushed on the left and served from the right
-- KEYS[4]  parked hosts   set: keys of the hosts with parked messages
-- KEYS[5]  parked shards  hash: shard -> number of parked messages, for the message's run
-- KEYS[6]  host           hash: the state of the host (see host.lua)
-- ARGV     the delivery tag, the new delivery tag, the host's key, the run's id, the shard, the keys' lifetime in
--          seconds, the beginning of the tags of parked messages
--
-- Returns 1 if the message was parked; 0 if it was already acknowledged or requeued.

local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then
    return 0
end
-- Decoding and encoding the message would turn its empty lists into objects, so the text is cut out of the record.
local decoded = cjson.decode(record)
local tail = ', ' .. cjson.encode(decoded[2]) .. ', ' .. cjson.encode(decoded[3]) .. ']'
local message = string.sub(record, 2, -#tail - 1)
local from, to = string.find(message, ARGV[1], 1, true)
if string.sub(record, -#tail) ~= tail or not from then
    return 0
end
message = string.sub(message, 1, from - 1) .. ARGV[2] .. string.sub(message, to + 1)
redis.call('LPUSH', KEYS[3], ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. decoded[3] .. ' ' .. message)
redis.call('SADD', KEYS[4], ARGV[3])
redis.call('HINCRBY', KEYS[5], ARGV[5], 1)
redis.call('EXPIRE', KEYS[5], ARGV[6])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local was_parked = string.sub(ARGV[1], 1, #ARGV[7]) == ARGV[7]
if was_parked and (tonumber(redis.call('HGET', KEYS[6], 'served')) or 0) > 0 then
    redis.call('HINCRBY', KEYS[6], 'served', -1)
end
return 1
