"""The doctor's checks of hosts: whether the whole fleet waits for a single host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from producer.dispatch.host_report import HostCondition, HostReport
from producer.doctor.finding import Finding, Level
from producer.formatting import pluralized
from tasks.celery import IMAGE_QUEUE
from tasks.throttle.hosts import list_hosts

_NAME = "hosts"
#: The share of the queued and parked images above which one host delays a fleet.
_MOST_IMAGES_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class HostLoad:
    """The hosts of a fleet, and its images that wait."""

    #: The number of hosts in each condition.
    conditions: Mapping[HostCondition, int]
    #: The hosts with the most open requests and with the most parked images; None without any host.
    most_open: HostReport | None
    most_parked: HostReport | None
    #: The number of images that wait in the queue or for a host.
    waiting: int


def measure_hosts(server: redis.Redis) -> HostLoad:
    """Return the load of the hosts at a broker.

    Raises:
        redis.RedisError: the broker is unreachable.
    """
    return load_of(list(map(HostReport.from_state, list_hosts(server))), server.llen(IMAGE_QUEUE))


def load_of(hosts: Sequence[HostReport], queued: int) -> HostLoad:
    """Return the load of hosts, and this number of queued images."""
    return HostLoad(
        Counter(host.condition for host in hosts),
        max(hosts, key=lambda host: host.open, default=None),
        max(hosts, key=lambda host: host.parked, default=None),
        queued + sum(host.parked for host in hosts),
    )


def host_findings(load: HostLoad, slots: int) -> list[Finding]:
    """Check whether one host delays a fleet with this number of slots."""
    if load.most_open is None or load.most_parked is None:
        return [Finding(_NAME, Level.OK, "no host was used in the last hour")]
    parked = load.most_parked
    findings = []
    if slots and load.most_open.open >= slots:
        found = f"all {slots} slots of the fleet wait for {load.most_open.host}"
        todo = "Lower its limit, so that slots are free for other hosts: `producer hosts --set HOST --concurrency N`."
        findings.append(Finding("slots", Level.WARN, found, todo))
    if parked.parked > max(slots, load.waiting * _MOST_IMAGES_RATIO):
        why = f"; {parked.reason}" if parked.reason else ""
        found = f"{parked.parked:,} of {load.waiting:,} waiting images wait for {parked.host} ({parked.condition}{why})"
        findings.append(Finding(_NAME, Level.WARN, found, _remedy(parked)))
    if findings:
        return findings
    shown = ", ".join(f"{count:,} {name}" for name in HostCondition if (count := load.conditions.get(name, 0)))
    return [Finding(_NAME, Level.OK, f"{pluralized(sum(load.conditions.values()), 'host')} in the last hour: {shown}")]


def _remedy(host: HostReport) -> str:
    if host.condition in (HostCondition.GIVEN_UP, HostCondition.RESTS, HostCondition.PROBED):
        return "Wait for the end of its rest. If the host works again, run `producer hosts --lift HOST`."
    return (
        "If the host's operator allows more requests, start the next run with a higher --per-host-concurrency, or with "
        "--host-limits. If an operator of the fleet has limited the host, run `producer hosts --lift HOST`."
    )
