-- Takes up to a number of messages off the queues, in turns, and records each as unacknowledged in the same step: a
-- worker that dies right after it loses none.
--
-- KEYS[1]   unacked        hash: delivery tag -> JSON of [message, exchange, routing key], as kombu writes it
-- KEYS[2]   unacked_index  sorted set: delivery tag by the time of its delivery
-- KEYS[3…]  the queues     lists: kombu pushes left and pops right
-- ARGV      now (seconds since the epoch), the number of messages
--
-- Returns place of the queue among the queues, message, place, message, …

-- What kombu records of a message; it raises where the message is not of kombu's form.
local function record_of(message)
    local properties = cjson.decode(message).properties
    local route = properties.delivery_info
    local record = '[' .. message .. ', ' .. cjson.encode(route.exchange)
        .. ', ' .. cjson.encode(route.routing_key) .. ']'
    return properties.delivery_tag, record
end

local queues = #KEYS - 2
local limit = 2 * tonumber(ARGV[2])
local taken = {}
local turn, empty = 0, 0

while #taken < limit and empty < queues do
    local place = turn % queues
    local queue = KEYS[3 + place]
    local message = redis.call('RPOP', queue)
    local fit, tag, record = false, nil, nil
    turn = turn + 1
    if message then
        fit, tag, record = pcall(record_of, message)
        fit = fit and type(tag) == 'string'
        if not fit then
            -- It is not ours to judge: the consumer meets it in the ordinary way.
            redis.call('RPUSH', queue, message)
        end
    end
    if fit then
        redis.call('ZADD', KEYS[2], ARGV[1], tag)
        redis.call('HSET', KEYS[1], tag, record)
        taken[#taken + 1] = place
        taken[#taken + 1] = message
        empty = 0
    else
        empty = empty + 1
    end
end
return taken
