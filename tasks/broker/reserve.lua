-- Takes messages off the lists, up to a limit, and records each as unacknowledged in the same atomic step. So no
-- message is lost if the worker dies right afterwards.
--
-- KEYS[1]   unacked        hash: delivery tag -> JSON of [message, exchange, routing key], as kombu writes it
-- KEYS[2]   unacked_index  sorted set: delivery tag by time of delivery
-- KEYS[3]   dead letter    list: messages not written by kombu, because each would block the messages behind it
-- KEYS[4…]  the lists      kombu pushes on the left and pops on the right
-- ARGV      now (seconds since the epoch), the number of messages, the number of lists in a group, and for each list
--           1 to record its messages, else 0
--
-- A group of lists is emptied before the next group starts. Within a group, the lists take turns.
-- Returns the number of dead-lettered messages. Then, for each reserved message, the index of its list (from 0) and its
-- text.

-- Returns kombu's record of a message; raises an error if the message is not in kombu's format.
local function kombu_record(message)
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
            local valid, tag, record = pcall(kombu_record, message)
            if valid and type(tag) == 'string' then
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
