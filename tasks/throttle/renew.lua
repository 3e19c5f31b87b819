-- Renews a holder's lease of a host, or restores it if Redis has lost it.
--
-- KEYS[1]  imagefleet:host:HOST     hash: the state of the host
-- KEYS[2]  imagefleet:leases:HOST   hash: holder -> lease
-- KEYS[3]  imagefleet:host-limits   hash: host -> JSON of the limit that an operator has set
-- KEYS[4]  imagefleet:parked:HOST   list: tasks that wait for the host
-- ARGV     host, holder, the number of its permits
--
-- Cost: O(holders of the host).
-- Returns how many permits the holder may keep, 1 if others wait for permits, and the seconds until the rest ends.

local key, holder, held = ARGV[1], ARGV[2], number(ARGV[3])
local now = read_clock()
local host, resting = read_host(KEYS[1], now)
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
