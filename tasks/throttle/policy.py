"""Set the numbers that decide how a host is treated. All times are in seconds.

The Lua scripts get these numbers as variables of the same names, so each number stands only here.
"""

from __future__ import annotations

#: How long permits stay valid after their holder was last heard of. Holders renew every second.
LEASE_SECONDS = 15.0
#: How much longer a lease counts after it expired or its worker is gone, because the clock may have jumped or Redis may
#: have been away. A holder that is alive renews its lease meanwhile.
DOUBT_SECONDS = 2.5
#: How long a holder may be silent before it matters that Redis does not know it as a worker.
SILENCE_SECONDS = 1.5
#: How long no permits are granted after Redis lost data or was restarted. All holders renew their leases meanwhile.
SETTLE_SECONDS = 2.5
#: How long a holder that was refused counts as waiting.
CLAIM_SECONDS = 2.0
#: How far ahead of its time a request may be booked.
MAX_BOOKING_SECONDS = 0.5
#: The suggested wait for a host with all its permits in use.
FULL_WAIT_SECONDS = 0.1
#: How long a parked task that went back to its queue counts as on its way to a permit.
SERVED_SECONDS = 1.0
#: The suggested wait while another request probes the host.
PROBE_WAIT_SECONDS = 0.5

#: The first rest of a host that names no time: after a refusal, and after failed connections. Each further rest in a
#: row is twice as long, up to the longest rest.
FIRST_REFUSED_REST_SECONDS, FIRST_UNREACHABLE_REST_SECONDS = 1.0, 5.0
LONGEST_REST_SECONDS = 120.0
#: The shortest and the longest rest at a host's request (Retry-After).
SHORTEST_RETRY_AFTER_SECONDS = 1.0
LONGEST_RETRY_AFTER_SECONDS = 3_600.0
#: The number of failed connections in a row after which a host rests.
FAILURES_BEFORE_REST = 5
#: The numbers of rests in a row after which a host is given up.
UNREACHABLE_RESTS, REFUSED_RESTS = 3, 6

#: The minimum time between two reductions of a host's limit.
REDUCTION_SECONDS = 1.0
#: A host counts as slow if its smoothed latency is above this time and above this multiple of its best latency.
SLOW_SECONDS, SLOW_FACTOR = 1.0, 2.0
#: The weight of one answer in the smoothed latency, as in RFC 6298.
LATENCY_WEIGHT = 0.125

#: How long Redis keeps the state of an idle host: a host that works, and a host that rested or has a reduced limit.
IDLE_SECONDS, TROUBLED_SECONDS = 3_600, 86_400
#: The minimum time between two updates of an idle host's expiry.
KEEP_SECONDS = 60
