-- Grants permits of a host, and takes back the holder's unused ones.
--
-- KEYS[1]  imagefleet:host:HOST     hash: the state of the host
-- KEYS[2]  imagefleet:leases:HOST   hash: holder -> lease
-- KEYS[3]  imagefleet:host-limits   hash: host -> JSON of the limit that an operator has set
-- KEYS[4]  imagefleet:throttle      hash: the server that granted the leases, since when it is known, and when the
--                                   index was last cleaned
-- KEYS[5]  imagefleet:workers       set: the workers that have not stopped
-- KEYS[6]  imagefleet:hosts         sorted set: host by the time of its latest use
-- ARGV     host, holder, wanted permits, returned permits, the run's limit: open requests, the run's limit: requests
--          per second (empty for no limit), 1 if rests and the reduced limit count
--
-- Cost: O(holders of the host). Once a minute, also O(hosts) to remove the hosts that are unused for a day.
-- Returns the number of granted permits, the wait in seconds, the reason (see `Why`), the number of rests in a row, and
-- 1 if other holders have permits or wait.
--
-- The rate is the generic cell rate algorithm of ITU-T I.371 with a burst of one request. `booked` is its theoretical
-- arrival time. Unlike a limiter that refuses, it also books a time that is less than MAX_BOOKING_SECONDS ahead.

local key, holder, adaptive = ARGV[1], ARGV[2], ARGV[7] == '1'
local now = read_clock()
local host, resting = read_host(KEYS[1], now)
local leases = read_leases(KEYS[2], now)
local is_new = next(leases) == nil
local own = lease_of(leases, holder)
own.permits = math.max(0, own.permits - number(ARGV[4]))
own.renewed, own.refused, own.doubted = now, 0, 0

local fleet = redis.call('HMGET', KEYS[4], 'run_id', 'since', 'cleaned')

-- Returns how long all holders still have to renew their leases. A restarted server has a new run_id. Its
-- append-only file may lack the leases of the last second.
local function settling()
    local id = redis.call('INFO', 'server'):match('run_id:(%w+)') or ''
    local left = number(fleet[2]) + SETTLE_SECONDS - now
    if fleet[1] ~= id or left > SETTLE_SECONDS then
        redis.call('HSET', KEYS[4], 'run_id', id, 'since', seconds(now))
        left = SETTLE_SECONDS
    end
    return math.max(0, left)
end

-- Doubts the leases of silent workers that Redis does not know any more, so that they end before they expire.
local function doubt_dead()
    for other, lease in pairs(leases) do
        local silent = lease.doubted == 0 and now - lease.renewed >= SILENCE_SECONDS
        if silent and redis.call('SISMEMBER', KEYS[5], other) == 0 then
            lease.doubted = now
            write_lease(KEYS[2], other, lease, now)
        end
    end
end

-- Returns whether something that is done once a minute is due.
local function is_due(last)
    local since = now - number(last)
    return since < 0 or since >= KEEP_SECONDS
end

-- Removes the hosts from the index that are unused for a day.
local function clean_index()
    redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', seconds(now - TROUBLED_SECONDS))
    redis.call('EXPIRE', KEYS[6], 2 * TROUBLED_SECONDS)
    redis.call('HSET', KEYS[4], 'cleaned', seconds(now))
end

-- Stores the limit of this run for renewals and reports, which know no run. Once a minute, also notes that the host is
-- used, so that it does not expire.
local function note_use()
    local due = is_due(host.seen)
    local seen = due and seconds(now) or host.seen
    if due or host.limit ~= ARGV[5] or host.rate ~= ARGV[6] then
        host.limit, host.rate = ARGV[5], ARGV[6]
        redis.call('HSET', KEYS[1], 'limit', host.limit, 'rate', host.rate, 'seen', seen)
    end
    if due then
        redis.call('ZADD', KEYS[6], seen, key)
        keep(KEYS[1], host)
        if is_due(fleet[3]) then
            clean_index()
        end
    end
end

-- Books the next request. Returns the seconds until its time, or nil and the seconds until a booking is possible.
local function book(rate)
    local interval = 1 / rate
    local latest = now + MAX_BOOKING_SECONDS + interval
    local time = math.min(math.max(number(host.booked), now), latest)
    local possible = time - now <= MAX_BOOKING_SECONDS
    local booked = possible and time + interval or time
    if booked ~= number(host.booked) then
        redis.call('HSET', KEYS[1], 'booked', seconds(booked))
    end
    if possible then
        return time - now
    end
    return nil, time - now - MAX_BOOKING_SECONDS
end

note_use()
local limit, rate = effective_limit(host, KEYS[3], key, adaptive)
local half_open = adaptive and number(host.rests) > 0
if half_open then
    limit = 1
end
local in_use, claimants = usage(leases, holder, now)
if in_use >= limit then
    doubt_dead()
end

local function reply(permits, wait, why)
    if number(host.served) > 0 then
        -- A task that went back to its queue has arrived.
        redis.call('HSET', KEYS[1], 'served', math.max(0, number(host.served) - math.max(permits, 1)))
    end
    own.permits = own.permits + permits
    write_lease(KEYS[2], holder, own, now)
    if is_new then
        redis.call('EXPIRE', KEYS[2], TROUBLED_SECONDS)
    end
    return {permits, seconds(wait), why, number(host.rests), claimants > 1 and 1 or 0, host.latency or '0'}
end

local settle = settling()
if settle > 0 then
    return reply(0, settle, 'settling')
end
if adaptive and resting > 0 then
    return reply(0, resting, host.given_up == '1' and 'given_up' or 'resting')
end
if half_open and in_use > 0 then
    -- Perhaps the host answers the probe, so its images wait, even if it is given up.
    return reply(0, PROBE_WAIT_SECONDS, 'half_open')
end

local share = fair_share(limit, claimants)
if rate then
    -- Each permit is given back after its request, so no holder keeps more than its share. One more permit lets a
    -- holder work while another one has no task.
    share = share + 1
end
local wanted = math.min(number(ARGV[3]), share - own.permits)
if rate then
    wanted = math.min(wanted, 1)
end
local granted = math.max(0, math.min(wanted, limit - in_use))
if granted < wanted then
    own.refused = now
end
if granted == 0 then
    return reply(0, FULL_WAIT_SECONDS, 'full')
end
local wait = 0
if rate then
    local booked, later = book(rate)
    if not booked then
        own.refused = now
        return reply(0, later, 'rate')
    end
    wait = booked
end
if half_open then
    redis.call('HSET', KEYS[1], 'probe', holder)
    return reply(granted, wait, 'half_open')
end
return reply(granted, wait, 'granted')
