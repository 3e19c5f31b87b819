-- Takes back permits of a host.
--
-- KEYS[1]  imagefleet:leases:HOST   hash: holder -> lease
-- ARGV     holder, the number of permits
--
-- Cost: O(holders of the host).

local now = read_clock()
local own = lease_of(read_leases(KEYS[1], now), ARGV[1])
own.permits = math.max(0, own.permits - number(ARGV[2]))
own.renewed, own.doubted = now, 0
write_lease(KEYS[1], ARGV[1], own, now)
