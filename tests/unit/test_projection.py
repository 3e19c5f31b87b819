"""Estimates computed from the cost of one image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.projection import AHEAD, Cost, ListTotals, Resources
from config import limits

COST = Cost(
    worker=0.002,
    producer=0.0001,
    redis=0.00007,
    picture=15_000,
    redis_traffic=6_000,
    appended=5_000,
    in_flight=1_800,
    manifest=50,
    plan=10,
    summary=0.001,
)


def test_reads_the_measurements() -> None:
    """CPU is in microseconds. The bytes of both directions are added. Redis's cost is taken at the highest load."""
    image = {
        "worker_us": 2000.0,
        "producer_us": 100.0,
        "picture": 15_000,
        "bytes_in": 3_500.0,
        "bytes_out": 2_500.0,
        "appended": 5_000.0,
        "in_flight": 1_800,
        "manifest": 50.0,
        "plan": 10.0,
        "summary_ms_per_shard": 1.0,
    }
    loads = {
        "light": {"redis_share": 0.1, "redis_us": 110.0},
        "heavy": {"redis_share": 0.9, "redis_us": 70.0},
        "middle": {"redis_share": 0.3, "redis_us": 60.0},
    }
    measured = Cost.from_result({"image": image, "loads": loads})
    assert (measured.worker, measured.producer, measured.redis) == pytest.approx((0.002, 0.0001, 0.00007))
    assert replace(measured, worker=COST.worker, producer=COST.producer, redis=COST.redis) == COST


def test_cpu_limits_the_rate_of_fast_images() -> None:
    """For fast images, the cores are the limit. Two cores at 70 % load handle 700 images/s at 2 ms of CPU per image."""
    needed = Resources.for_rate(690, 0.02, COST, 1000)
    assert (needed.slots, needed.cores, needed.processes, needed.hosts) == (14, 2, 2, 1)
    assert (needed.redis_servers, needed.producers) == (1, 1)


def test_slots_limit_the_rate_of_slow_images() -> None:
    """For slow images the slots determine the number of processes, because each process has at most 64 slots."""
    needed = Resources.for_rate(690, 1.0, COST, 1000)
    assert (needed.slots, needed.cores, needed.processes) == (690, 2, 11)


@pytest.mark.parametrize(("rate", "servers", "producers"), [(9_900, 1, 2), (10_100, 2, 2), (99_000, 10, 15)])
def test_servers_follow_the_rate(rate: float, servers: int, producers: int) -> None:
    """At 70 % of a core, one Redis handles 10,000 images/s, and one producer handles 7,000 images/s."""
    needed = Resources.for_rate(rate, 0.5, COST, 1000)
    assert (needed.redis_servers, needed.producers) == (servers, producers)
    assert needed.downloaded == rate * 15_000
    assert needed.redis_traffic == rate * 6_000
    assert needed.appended == rate * 5_000


def test_memory_follows_the_slots() -> None:
    """The usual window is enough for a small fleet. A larger fleet's window holds several images for each slot."""
    small, large = (Resources.for_rate(rate, 0.5, COST, 1000) for rate in (1_000, 10_000))
    assert (small.window, small.redis_memory) == (8, 8 * 1000 * 1_800)
    assert large.window * 1000 == AHEAD * large.slots * (1 + limits.PREFETCH)
    assert large.redis_memory == large.window * 1000 * 1_800


def test_counts_output_files() -> None:
    """Each image is a file. Each shard has a folder, a manifest, a stats file and a plan, even the last shard."""
    left = ListTotals.for_images(2_500, COST, 1000)
    assert (left.shards, left.entries) == (3, 2_512)
    assert (left.pictures, left.manifests, left.plan) == (37_500_000, 125_000, 25_000)
    assert left.summary == pytest.approx(0.003)
