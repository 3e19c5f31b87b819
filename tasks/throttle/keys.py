"""Name the keys of hosts in Redis, and the channel of their rests.

===========================  ======  ==================================  ============================================
key                          type    lifetime                            written by, and content
===========================  ======  ==================================  ============================================
imagefleet:host:HOST         hash    1 hour, or 1 day after a rest;      the steps ``acquire`` and ``report``: the
                                     renewed every minute                state of a host (see ``host.lua``)
imagefleet:leases:HOST       hash    1 day; renewed every second         the steps ``acquire``, ``renew`` and
                                                                         ``release``: worker id -> permits and times
                                                                         (see ``host.lua``)
imagefleet:host-limits       hash    until an operator lifts the limits  `operator`: HOST -> a ``HostLimit`` as JSON
imagefleet:hosts             zset    2 days; renewed every minute        the step ``acquire``: HOST by the time of its
                                                                         use; hosts unused for a day are removed
imagefleet:throttle          hash    until Redis loses its data          the first ``acquire`` after Redis started or
                                                                         lost its data: ``run_id`` of the server,
                                                                         ``since`` when it is known, and when
                                                                         ``imagefleet:hosts`` was ``cleaned``
imagefleet:parked:HOST       list    while tasks are parked              `Parking`: the tasks that wait for the host,
                                                                         as "RUN SHARD QUEUE MESSAGE"
imagefleet:parked-hosts      set     while tasks are parked              `Parking`: the hosts with parked tasks
imagefleet:parked-shards:ID  hash    7 days; deleted when the run ends   `Parking`: shard -> number of parked tasks
imagefleet:workers           set     see ``tasks/broker/keys.py``        read only: the workers that have not stopped
imagefleet:run:ID            string  see ``tasks/broker/keys.py``        read only: exists until the run ends
===========================  ======  ==================================  ============================================

HOST is the text that a limit counts for: a name, a registrable domain or an address. If all these keys are lost, the
holders restore their leases within a second. Hosts that were resting are probed again.
"""

from __future__ import annotations

#: The limits that operators have set.
HOST_LIMITS = "imagefleet:host-limits"
#: The Redis server that the leases were granted by.
THROTTLE = "imagefleet:throttle"
#: The ids of all workers that have not stopped. The broker's keys contain the same name.
WORKERS = "imagefleet:workers"
#: The channel on which each rest is published, as JSON of a `Rest`.
RESTS = "imagefleet:rests"
#: The hosts of the last day.
HOSTS = "imagefleet:hosts"
#: The hosts with parked tasks.
PARKED_HOSTS = "imagefleet:parked-hosts"


def host(key: str) -> str:
    """Return the key of a host's state."""
    return f"imagefleet:host:{key}"


def leases(key: str) -> str:
    """Return the key of a host's leases."""
    return f"imagefleet:leases:{key}"


def parked(key: str) -> str:
    """Return the key of the tasks that wait for a host."""
    return f"imagefleet:parked:{key}"


def run(run_id: str) -> str:
    """Return the key that exists while a run goes on. The broker's keys contain the same name."""
    return f"imagefleet:run:{run_id}"


def parked_shards(run_id: str) -> str:
    """Return the key of the number of parked tasks in each shard of a run."""
    return f"imagefleet:parked-shards:{run_id}"
