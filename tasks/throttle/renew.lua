-- Sets the number of a holder's permits of a host, and renews its lease. Also records the holder's good answers, as
-- `report` does. A lease that Redis has lost is restored.
--
-- KEYS[1]  imagefleet:host:HOST     hash: the state of the host
-- KEYS[2]  imagefleet:leases:HOST   hash: holder -> lease
-- KEYS[3]  imagefleet:host-limits   hash: host -> JSON of the limit that an operator has set
-- KEYS[4]  imagefleet:parked:HOST   list: tasks that wait for the host
-- ARGV     host, holder, the number of its permits, good answers, their mean latency in seconds, 1 if the limit and rests
--          may change, the channel on which rests are published
--
-- Cost: O(holders of the host + good answers), which are at most a few hundred.
-- Returns how many permits the holder may keep, 1 if others wait for permits, and the seconds until the rest ends.

local held = number(ARGV[3])
key, holder = ARGV[1], ARGV[2]
ok, latency, adaptive, channel = number(ARGV[4]), number(ARGV[5]), ARGV[6] == '1', ARGV[7]
now = read_clock()
host, resting = read_host(KEYS[1], now)
if ok > 0 then
    observe()
end
local leases = read_leases(KEYS[2], now)
local own = lease_of(leases, holder)
own.permits, own.renewed, own.doubted = held, now, 0
write_lease(KEYS[2], holder, own, now)
redis.call('EXPIRE', KEYS[2], TROUBLED_SECONDS)

local share = held
local _, claimants, wanted = usage(leases, holder, now)
if resting > 0 then
    share = 0
elseif number(host.rests) > 0 then
    -- Permits from before the rest must end before the probe, and they are no probes themselves.
    share = host.probe == holder and 1 or 0
elseif host.limit then
    share = fair_share(effective_limit(host, KEYS[3], key, true), claimants)
end
wanted = wanted or redis.call('EXISTS', KEYS[4]) == 1
return {math.min(held, share), wanted and 1 or 0, seconds(resting)}
