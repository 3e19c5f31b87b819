-- Describes a host for an operator.
--
-- KEYS[1]  imagefleet:host:HOST     hash: the state of the host
-- KEYS[2]  imagefleet:leases:HOST   hash: holder -> lease
-- KEYS[3]  imagefleet:host-limits   hash: host -> JSON of the limit that an operator has set
-- KEYS[4]  imagefleet:parked:HOST   list: tasks that wait for the host
-- ARGV     host
--
-- Cost: O(holders of the host).
-- Returns JSON: the fields of the state, the permits in use, the number of parked tasks, the seconds until the rest ends,
-- the seconds since the latest rest began or the limit was last halved (absent if neither has happened), and the
-- operator's limit (as JSON; absent if there is none).

local now = read_clock()
local host, resting = read_host(KEYS[1], now)
local permits = usage(read_leases(KEYS[2], now), '', now)
local set = redis.call('HGET', KEYS[3], ARGV[1])
local troubled = math.max(number(host.rested), number(host.reduced))
return cjson.encode({
    state = host,
    permits = permits,
    parked = redis.call('LLEN', KEYS[4]),
    resting = resting,
    troubled = troubled > 0 and math.max(0, now - troubled) or nil,
    set = set or nil,
})
