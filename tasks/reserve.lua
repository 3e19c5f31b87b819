-- Takes up to a number of messages off the queues, in turns, and records each as unacknowledged in the same step: a
-- worker that dies right after it loses none.
--
-- KEYS[1]   unacked        hash: delivery tag -> JSON of [message, exchange, routing key], as kombu writes it
-- KEYS[2]   unacked_index  sorted set: delivery tag by the time of its delivery
-- KEYS[3…]  the queues     lists: kombu pushes left and pops right
-- ARGV      now (seconds since the epoch), the number of messages
--
-- Returns place of the queue among the queues, message, place, message, …

local queues = #KEYS - 2
local limit = 2 * tonumber(ARGV[2])
local taken = {}
local turn, empty = 0, 0

while #taken < limit and empty < queues do
    local place = turn % queues
    local queue = KEYS[3 + place]
    turn = turn + 1
    local message = redis.call('RPOP', queue)
    local readable, content = false, nil
    if message then
        readable, content = pcall(cjson.decode, message)
        if not readable then
            -- It is not ours to judge: the consumer meets it in the ordinary way.
            redis.call('RPUSH', queue, message)
        end
    end
    if readable then
        local properties = content.properties
        local route = properties.delivery_info
        local record = '[' .. message .. ', ' .. cjson.encode(route.exchange)
            .. ', ' .. cjson.encode(route.routing_key) .. ']'
        redis.call('ZADD', KEYS[2], ARGV[1], properties.delivery_tag)
        redis.call('HSET', KEYS[1], properties.delivery_tag, record)
        taken[#taken + 1] = place
        taken[#taken + 1] = message
        empty = 0
    else
        empty = empty + 1
    end
end
return taken
