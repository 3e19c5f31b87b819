-- Shared by all steps: the state of a host, and the leases of its permits.
--
-- A step is this order of texts: the numbers of policy.py as local variables, clock.lua, this file, the step's file.
--
-- The state is a hash. Fields that are absent count as 0.
--   limit, rate      the limit of the last acquire: open requests, and requests per second (empty for no limit)
--   adaptive         the reduced limit; absent while the limit is not reduced
--   threshold        below this limit, the reduced limit grows by 1 with each good answer
--   good             good answers since the reduced limit last grew
--   reduced          when the limit was last halved
--   booked           the earliest time that the rate allows for the next booking
--   rests            rests in a row
--   until, rest      when the latest rest ends, and its length in seconds
--   rested           when the latest rest began
--   given_up         1 if the host is given up
--   cause            why the host rested: refused or unreachable
--   probe            the holder of the current or latest probe
--   failures         failed connections in a row
--   latency, best    the smoothed and the best latency in seconds
--   ok, slow, refused, unreachable   the numbers of reports of each kind
--   seen             when the index of hosts last noted this host
--
-- The leases are a hash: holder -> four numbers, separated by spaces. They are the permits, the time of the last
-- renewal, the time at which the holder was refused (0 if it does not wait), and the time since when the lease is in
-- doubt (0 if it is not). A lease in doubt ends unless its holder renews it soon.
--
-- A stored time in the future comes from a clock that has jumped back. It is set to the latest time that a step could
-- have stored now, because otherwise the host would be blocked until the clock is there again.

local function number(value)
    return tonumber(value) or 0
end

local function seconds(value)
    return string.format('%.6f', value)
end

-- Returns a hash as a table.
local function read_hash(key)
    local flat, fields = redis.call('HGETALL', key), {}
    for index = 1, #flat, 2 do
        fields[flat[index]] = flat[index + 1]
    end
    return fields
end

-- Returns the state of a host, and the seconds until its rest ends.
local function read_host(key, now)
    local host = read_hash(key)
    local resting = number(host['until']) - now
    if resting > number(host.rest) then
        resting = number(host.rest)
        redis.call('HSET', key, 'until', seconds(now + resting))
    end
    return host, math.max(0, resting)
end

-- Returns the number of permits that all holders may have together, and the rate, which may be nil. A limit set by an
-- operator can only reduce both.
local function effective_limit(host, limits_key, key, adaptive)
    local permits, rate = number(host.limit), tonumber(host.rate)
    local set = redis.call('HGET', limits_key, key)
    if set then
        set = cjson.decode(set)
        permits = math.min(permits, set.concurrency)
        if tonumber(set.rate) then
            rate = math.min(rate or math.huge, set.rate)
        end
    end
    if adaptive and host.adaptive then
        permits = math.min(permits, number(host.adaptive))
    end
    return permits, rate
end

local function is_waiting(lease, now)
    return lease.refused > 0 and now - lease.refused <= CLAIM_SECONDS
end

local function lease_of(leases, holder)
    leases[holder] = leases[holder] or {permits = 0, renewed = 0, refused = 0, doubted = 0}
    return leases[holder]
end

-- Stores a lease, or removes it if its holder neither has permits nor waits.
local function write_lease(key, holder, lease, now)
    if lease.permits == 0 and not is_waiting(lease, now) then
        redis.call('HDEL', key, holder)
        return
    end
    local text = string.format('%d %.6f %.6f %.6f', lease.permits, lease.renewed, lease.refused, lease.doubted)
    redis.call('HSET', key, holder, text)
end

-- Returns the valid leases of a host by holder, and removes the others.
local function read_leases(key, now)
    local leases = {}
    for holder, text in pairs(read_hash(key)) do
        local permits, renewed, refused, doubted = text:match('^(%S+) (%S+) (%S+) (%S+)$')
        local lease = {
            permits = number(permits),
            renewed = math.min(number(renewed), now),
            refused = number(refused) <= now and number(refused) or 0,
            doubted = math.min(number(doubted), now),
        }
        if lease.doubted > 0 and now - lease.doubted >= DOUBT_SECONDS then
            lease.permits = 0
        elseif lease.doubted == 0 and now - lease.renewed >= LEASE_SECONDS then
            lease.doubted = now
        end
        if lease.permits == 0 and not is_waiting(lease, now) then
            redis.call('HDEL', key, holder)
        else
            leases[holder] = lease
            if lease.renewed ~= number(renewed) or lease.doubted ~= number(doubted) then
                write_lease(key, holder, lease, now)
            end
        end
    end
    return leases
end

-- Returns the number of permits in use, the number of holders that have permits or wait, and whether any holder other
-- than the given one waits. The given holder always counts.
local function usage(leases, holder, now)
    local permits, claimants, wanted = 0, 1, false
    for other, lease in pairs(leases) do
        permits = permits + lease.permits
        if other ~= holder then
            local waiting = is_waiting(lease, now)
            wanted = wanted or waiting
            if lease.permits > 0 or waiting then
                claimants = claimants + 1
            end
        end
    end
    return permits, claimants, wanted
end

-- Returns the number of permits that one holder may have.
local function fair_share(limit, claimants)
    return math.max(1, math.ceil(limit / claimants))
end

-- Keeps the state of a host for a while: longer if the host rested or has a reduced limit.
local function keep(key, host)
    local troubled = number(host.rests) > 0 or host.adaptive
    redis.call('EXPIRE', key, troubled and math.ceil(TROUBLED_SECONDS + number(host.rest)) or IDLE_SECONDS)
end
