-- Shared by `report` and `renew`: records what a process has observed of a host. Reduces the host's limit or lets the host
-- rest if necessary. Stands between host.lua and the step's file.
--
-- The limit grows by one per `limit` good answers, and is halved if the host refuses or is slow: additive increase,
-- multiplicative decrease (Chiu and Jain 1989). After a rest it starts at one and grows with each good answer up to
-- half of the old limit: the slow start of RFC 5681. The rests are a circuit breaker: closed (no rests), open (the rest
-- lasts), half-open (the rest is over, and only the answer to the probe counts).

-- The step sets these variables before it calls `observe`: the host's key and state, the seconds until its rest ends, and
-- the observations.
local key, holder, now, host, resting, channel
local ok, latency, slow, refused, retry_after, unreachable = 0, 0, 0, false, nil, false
-- Whether the limit and the rests may change.
local adaptive = false

local function count(name, times)
    if times > 0 then
        host[name] = number(host[name]) + times
    end
end

-- An exponentially weighted mean: n answers count as n steps with the same latency.
local function smooth()
    local old = tonumber(host.latency) or latency
    local weight = 1 - (1 - LATENCY_WEIGHT) ^ ok
    host.latency = seconds(old + weight * (latency - old))
    host.best = seconds(math.min(tonumber(host.best) or latency, latency))
end

local function current_limit()
    local limit = math.max(1, number(host.limit))
    return math.min(limit, tonumber(host.adaptive) or limit)
end

-- Latency alone never halves the limit twice: a host may simply have become slow, and fewer requests would not help.
local function is_slow()
    local smoothed = number(host.latency)
    local is_reduced = current_limit() <= number(host.limit) / 2
    return not is_reduced and smoothed > SLOW_SECONDS and smoothed > SLOW_FACTOR * number(host.best)
end

local function reduce()
    local since = now - number(host.reduced)
    if since < 0 or since >= REDUCTION_SECONDS then
        local least = slow > 0 and 1 or math.floor(number(host.limit) / 2)
        host.adaptive = math.max(1, least, math.floor(current_limit() / 2))
        host.threshold, host.good, host.reduced = host.adaptive, 0, seconds(now)
    end
end

local function grow()
    local reduced, limit, good = tonumber(host.adaptive), number(host.limit), ok
    if not reduced then
        return
    end
    local start = math.max(0, math.min(good, number(host.threshold) - reduced))
    reduced, good = reduced + start, number(host.good) + good - start
    while good >= reduced and reduced < limit do
        reduced, good = reduced + 1, good - reduced
    end
    host.adaptive, host.good = reduced, good
    if reduced >= limit then
        host.adaptive, host.good, host.threshold = nil, nil, nil
    end
end

local function publish()
    local given_up = host.given_up == '1'
    redis.call('PUBLISH', channel, cjson.encode({key = key, seconds = resting, given_up = given_up}))
end

local function rest_until(duration)
    resting = duration
    host['until'], host.rest = seconds(now + duration), seconds(duration)
    if duration > LONGEST_REST_SECONDS then
        host.given_up = '1'
    end
end

local function requested_rest()
    return math.min(math.max(retry_after, SHORTEST_RETRY_AFTER_SECONDS), LONGEST_RETRY_AFTER_SECONDS)
end

-- Lets the host rest for the requested time, or for twice the time of its previous rest.
local function rest(cause)
    local rests = number(host.rests)
    if rests == 0 then
        host.threshold = math.max(1, math.floor(current_limit() / 2))
    end
    host.adaptive, host.good, host.failures, host.probe = 1, 0, 0, nil
    host.rests, host.cause, host.rested = rests + 1, cause, seconds(now)
    if rests + 1 >= (cause == 'refused' and REFUSED_RESTS or UNREACHABLE_RESTS) then
        host.given_up = '1'
    end
    if refused and retry_after then
        rest_until(requested_rest())
    else
        local first = cause == 'refused' and FIRST_REFUSED_REST_SECONDS or FIRST_UNREACHABLE_REST_SECONDS
        rest_until(math.min(LONGEST_REST_SECONDS, first * 2 ^ math.min(rests, 30)))
    end
    publish()
end

-- The host rests: requests that began earlier can only prolong the rest.
local function observe_resting()
    if refused and retry_after and requested_rest() > resting then
        rest_until(requested_rest())
        publish()
    end
end

-- The host is probed. The answers of other requests say nothing, because they began before the rest.
local function observe_probe()
    if holder ~= host.probe then
        return
    end
    if refused or unreachable then
        rest(refused and 'refused' or 'unreachable')
    elseif ok > 0 or slow > 0 then
        host.rests, host['until'], host.rest, host.given_up, host.cause, host.probe = nil, nil, nil, nil, nil, nil
        ok = math.min(ok, 1)
        grow()
    end
end

local function observe_working()
    if refused then
        rest('refused')
    elseif number(host.failures) >= FAILURES_BEFORE_REST then
        rest('unreachable')
    elseif slow > 0 or (ok > 0 and is_slow()) then
        reduce()
    elseif ok > 0 then
        grow()
    end
end

-- Writes only the fields that have changed since `before`.
local function save(before)
    for name in pairs(before) do
        if host[name] == nil then
            redis.call('HDEL', KEYS[1], name)
        end
    end
    local changed = {}
    for name, value in pairs(host) do
        value = tostring(value)
        if before[name] ~= value then
            changed[#changed + 1], changed[#changed + 2] = name, value
        end
    end
    if #changed > 0 then
        redis.call('HSET', KEYS[1], unpack(changed))
    end
    keep(KEYS[1], host)
end

local function observe()
    local before = {}
    for name, value in pairs(host) do
        before[name] = value
    end
    count('ok', ok)
    count('slow', slow)
    count('refused', refused and 1 or 0)
    count('unreachable', unreachable and 1 or 0)
    if ok > 0 then
        smooth()
    end
    if ok > 0 or slow > 0 or refused then
        host.failures = nil
    end
    if unreachable then
        count('failures', 1)
    end
    if adaptive then
        if resting > 0 then
            observe_resting()
        elseif number(host.rests) > 0 then
            observe_probe()
        else
            observe_working()
        end
    end
    save(before)
end
