"""A dead host costs a few attempts, not a few for each of its images."""

from __future__ import annotations

import sys
import time
from statistics import mean
from typing import Any

import pytest

from tasks.throttle import hosts
from tests.counting_server import CountingServer, Reply
from tests.faults.harness import Arena
from tests.integration import processes

_IMAGES, _SHARD = 300, 200
_WORKERS, _SLOTS = 2, 16
#: Each slot has an image with three attempts before the host rests, and after the rests, two probes have one attempt
#: each. A few more images may start while these failures are reported.
_MOST_ATTEMPTS = _WORKERS * _SLOTS * 3 + 20


@pytest.mark.timeout(300)
def test_dead_host_costs_few_attempts(arena: Arena) -> None:
    """The images of a dead host fail without an attempt, the other images do not wait, and a retry gets all images.

    The retry of a shard begins with the images that were never tried.
    """
    port = processes.free_port()
    dead = [f"http://127.0.0.1:{port}/{number}.png" for number in range(_IMAGES)]
    arena.list(_IMAGES)
    source = arena.folder / "both.txt"
    source.write_text("".join(f"{one}\n{two}\n" for one, two in zip(dead, arena.urls, strict=True)))
    arena.fleet.add(_WORKERS, slots=_SLOTS)
    began = time.monotonic()
    with arena.run(source, "--shard-size", str(_SHARD), "--timeout", "1") as run:
        numbers = run.wait(120).json()
    assert time.monotonic() - began < 60
    assert numbers["success"] == _IMAGES
    rows = {row["url"]: row for row in processes.rows(arena.out) if row["url"] in set(dead)}
    tried = {url for url, row in rows.items() if row["attempts"]}
    assert sum(row["attempts"] for row in rows.values()) <= _MOST_ATTEMPTS
    assert {row["reason"] for url, row in rows.items() if url not in tried} == {"host_resting"}

    def is_over() -> bool:
        return all(host.resting == 0 for host in hosts.list_hosts(arena.server.client))

    processes.eventually(is_over, "the end of the host's rest", 60)
    with CountingServer(arena.site.originals[0], lambda _: Reply(), port) as server:
        assert _retry(arena).json()["success"] == 2 * _IMAGES
        order = [f"{server.url}{one.path}" for one in server.served()]
    assert sorted(order) == sorted(dead)
    places: dict[bool, list[int]] = {True: [], False: []}
    # Shards are retried in their order, so the order of images counts only within a shard.
    first_shard = set(dead[: _SHARD // 2])
    for place, url in enumerate(order):
        if url in first_shard:
            places[url in tried].append(place)
    assert mean(places[False]) < mean(places[True])


def _retry(arena: Arena) -> processes.Completed:
    words: list[Any] = [sys.executable, "-m", "producer", "retry", arena.out, "--broker", arena.server.url, "--json"]
    with processes.started("retry", [str(word) for word in words], arena.folder) as running:
        return running.wait(120)
