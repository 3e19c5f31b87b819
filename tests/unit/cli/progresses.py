"""Make the progress of a run in which everything that the display can show is present."""

from __future__ import annotations

from producer.dispatch.host_report import HostCondition, HostReport
from producer.dispatch.progress import FleetCondition, Progress, Speed


def host(
    name: str, condition: HostCondition = HostCondition.WORKS, latency: float = 1.0, resting: float = 0.0
) -> HostReport:
    """Return the report of a host."""
    return HostReport(name, condition, "", 1, 16, None, 0, 9, 0, 0, 0, latency, 0.1, resting)


FULL = Progress(
    success=6172,
    failed=41,
    bytes=96_600_000,
    planned=10_000,
    plan_complete=True,
    reasons={"http_4xx": 30, "timeout": 8, "dns": 3},
    waiting=212,
    busiest_host="cdn.a.example",
    busy_hosts=2,
    shards_in_flight=8,
    repaired=2,
    speed=Speed(42.4, 148.2, 2_200_000, 151.04, 2_278_000, 26.3),
    fleet=FleetCondition(
        workers=4,
        lost_workers=1,
        resting=(
            host("cdn.a.example", HostCondition.GIVEN_UP, resting=540.0),
            host("d.example", HostCondition.RESTS, resting=12.2),
        ),
        resting_hosts=3,
        slowest=(host("slow.b.example", latency=2.414), host("img.c.example", latency=0.91)),
    ),
)
