-- Moves parked tasks of a host back to their queues: as many as the host has free permits, or all of a host that is given
-- up. Tasks of ended runs need no permits, because a worker drops them at once. So they don't delay tasks of other runs.
--
-- KEYS[1]  imagefleet:host:HOST      hash: the state of the host
-- KEYS[2]  imagefleet:leases:HOST    hash: holder -> lease
-- KEYS[3]  imagefleet:host-limits    hash: host -> JSON of the limit that an operator has set
-- KEYS[4]  imagefleet:parked:HOST    list of "RUN SHARD QUEUE MESSAGE"; pushed on the left and served from the right
-- KEYS[5]  imagefleet:parked-hosts   set: the hosts with parked tasks
-- ARGV     host, the most tasks to move, the prefix of the keys of parked shards, the prefix of the keys of runs
--
-- Tasks that were moved a moment ago, and have no permit yet, count as permits in use: `served`, and the time
-- `served_at` of the first. `acquire` takes them off again, and `park` if they are parked again. A task that uses a
-- permit of its worker is not taken off, so all are forgotten after SERVED_SECONDS.
--
-- Cost: O(holders of the host + moved tasks).
-- Returns the number of moved tasks.

local key = ARGV[1]
local now = read_clock()
local host, resting = read_host(KEYS[1], now)
local since = now - number(host.served_at)
local served = (since >= 0 and since < SERVED_SECONDS) and number(host.served) or 0

local function room()
    if host.given_up == '1' and resting > 0 then
        return tonumber(ARGV[2])
    end
    if resting > 0 then
        return 0
    end
    local limit, rate = effective_limit(host, KEYS[3], key, true)
    if number(host.rests) > 0 then
        limit = 1
    end
    local in_use = usage(read_leases(KEYS[2], now), '', now)
    local free = math.max(limit, 1) - in_use
    if rate then
        local ahead = math.max(0, MAX_BOOKING_SECONDS - math.max(0, number(host.booked) - now))
        free = math.min(free, math.ceil(ahead * rate))
    end
    return math.min(free - served, tonumber(ARGV[2]))
end

local ended = {}

-- Returns whether a run has no record any more.
local function has_ended(run)
    if ended[run] == nil then
        ended[run] = redis.call('EXISTS', ARGV[4] .. run) == 0
    end
    return ended[run]
end

local found, counted, most = {}, 0, room()
while #found < tonumber(ARGV[2]) do
    local entry = redis.call('LRANGE', KEYS[4], -1, -1)[1]
    if not entry then
        break
    end
    local run, shard, queue, message = string.match(entry, '^(%S+) (%S+) (%S+) (.*)$')
    if not has_ended(run) then
        if counted >= most then
            break
        end
        counted = counted + 1
    end
    redis.call('RPOP', KEYS[4])
    found[#found + 1] = {queue, message}
    if redis.call('HINCRBY', ARGV[3] .. run, shard, -1) <= 0 then
        redis.call('HDEL', ARGV[3] .. run, shard)
    end
end
for place = #found, 1, -1 do
    -- kombu pops on the right, so the message that was parked first is the next one of its queue.
    redis.call('RPUSH', found[place][1], found[place][2])
end
if counted > 0 then
    local first = served > 0 and host.served_at or seconds(now)
    redis.call('HSET', KEYS[1], 'served', served + counted, 'served_at', first)
    keep(KEYS[1], host)
end
if redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('SREM', KEYS[5], key)
end
return #found
