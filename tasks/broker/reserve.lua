-- Takes up to a number of messages off the lists and records each as unacknowledged in the same step: a worker that
-- dies right after it loses none.
--
-- KEYS[1]   unacked        hash: delivery tag -> JSON of [message, exchange, routing key], as kombu writes it
-- KEYS[2]   unacked_index  sorted set: delivery tag by the time of its delivery
-- KEYS[3]   put aside      list: what kombu did not write; in its place, nothing behind it would ever be seen
-- KEYS[4…]  the lists      kombu pushes left and pops right
-- ARGV      now (seconds since the epoch), the number of messages, how many lists make a group, and for each list
--           1 if its messages are recorded, else 0
--
-- A group is emptied before the next one is looked at; within it, the lists have turns.
-- Returns how many messages were put aside, place of the list (from 0), message, place, message, …

-- What kombu records of a message; it raises where the message is not of kombu's form.
local function record_of(message)
    local properties = cjson.decode(message).properties
    local route = properties.delivery_info
    local record = '[' .. message .. ', ' .. cjson.encode(route.exchange)
        .. ', ' .. cjson.encode(route.routing_key) .. ']'
    return properties.delivery_tag, record
end

local limit = 1 + 2 * tonumber(ARGV[2])
local group = tonumber(ARGV[3])
local taken = {0}

for first = 4, #KEYS, group do
    local turn, empty = 0, 0
    while #taken < limit and empty < group do
        local list = first + turn % group
        local message = redis.call('RPOP', KEYS[list])
        turn = turn + 1
        if message then
            empty = 0
            local fit, tag, record = pcall(record_of, message)
            if fit and type(tag) == 'string' then
                if ARGV[list] == '1' then
                    redis.call('ZADD', KEYS[2], ARGV[1], tag)
                    redis.call('HSET', KEYS[1], tag, record)
                end
                taken[#taken + 1] = list - 4
                taken[#taken + 1] = message
            else
                redis.call('LPUSH', KEYS[3], message)
                taken[1] = taken[1] + 1
            end
        else
            empty = empty + 1
        end
    end
end
return taken
