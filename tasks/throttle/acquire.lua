-- Grants permits of a host, and takes back the holder's unused ones.
--
-- KEYS[1]  imagefleet:host:HOST     hash: the state of the host
-- KEYS[2]  imagefleet:leases:HOST   hash: holder -> lease
-- KEYS[3]  imagefleet:host-limits   hash: host -> JSON of the limit that an operator has set
-- KEYS[4]  imagefleet:throttle      hash: the server that granted the leases, and since when it is known
-- KEYS[5]  imagefleet:workers       set: the workers that have not stopped
-- KEYS[6]  imagefleet:hosts         sorted set: host by the time of its latest use
-- ARGV     host, holder, wanted permits, returned permits, the run's limit: open requests, the run's limit: requests
--          per second (empty for no limit), 1 if rests and the reduced limit count
--
-- Cost: O(holders of the host). A host that is new also removes the hosts of the index that are unused for a day.
-- Returns the number of granted permits, the wait in seconds, the reason (see `Why`), the number of rests in a row, and
-- 1 if other holders have permits or wait.
--
-- The rate is the generic cell rate algorithm of ITU-T I.371 with a burst of one request. `booked` is its theoretical
-- arrival time. Unlike a limiter that refuses, it also books a time that is less than MAX_BOOKING_SECONDS ahead.

local key, holder, adaptive = ARGV[1], ARGV[2], ARGV[7] == '1'
local now = read_clock()
local host, resting = read_host(KEYS[1], now)
local leases = read_leases(KEYS[2], now)
local own = lease_of(leases, holder)
own.permits = math.max(0, own.permits - number(ARGV[4]))
own.renewed, own.refused, own.doubted = now, 0, 0

-- Returns how long all holders still have to renew their leases. A restarted server has a new run_id. Its
-- append-only file may lack the leases of the last second.
local function settling()
    local id = redis.call('INFO', 'server'):match('run_id:(%w+)') or ''
    local known = redis.call('HMGET', KEYS[4], 'run_id', 'since')
    local left = number(known[2]) + SETTLE_SECONDS - now
    if known[1] ~= id or left > SETTLE_SECONDS then
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

-- Stores the limit of this run for renewals and reports, which know no run.
local function note_limit()
    if host.limit ~= ARGV[5] then
        redis.call('HSET', KEYS[1], 'limit', ARGV[5])
        host.limit = ARGV[5]
    end
    if (host.rate or '') ~= ARGV[6] then
        if ARGV[6] == '' then
            redis.call('HDEL', KEYS[1], 'rate')
        else
            redis.call('HSET', KEYS[1], 'rate', ARGV[6])
        end
        host.rate = ARGV[6]
    end
end

-- Once a minute, notes that the host is used, so that it does not expire.
local function note_use()
    local since = now - number(host.seen)
    if since >= 0 and since < KEEP_SECONDS then
        return
    end
    redis.call('HSET', KEYS[1], 'seen', seconds(now))
    redis.call('ZADD', KEYS[6], seconds(now), key)
    keep(KEYS[1], host)
    if not host.seen then
        redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', seconds(now - TROUBLED_SECONDS))
        redis.call('EXPIRE', KEYS[6], 2 * TROUBLED_SECONDS)
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

note_limit()
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
    own.permits = own.permits + permits
    write_lease(KEYS[2], holder, own, now)
    return {permits, seconds(wait), why, number(host.rests), claimants > 1 and 1 or 0}
end

local settle = settling()
if settle > 0 then
    return reply(0, settle, 'settling')
end
local given_up = host.given_up == '1' and 'given_up'
if adaptive and resting > 0 then
    return reply(0, resting, given_up or 'resting')
end
if half_open and in_use > 0 then
    return reply(0, PROBE_WAIT_SECONDS, given_up or 'half_open')
end

local wanted = math.min(number(ARGV[3]), fair_share(limit, claimants) - own.permits)
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
