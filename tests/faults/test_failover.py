"""If a replica without the last writes takes over, the producer detects the lost tasks and resends them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.answers import let_last
from tests.faults.harness import Arena, Fleet
from tests.faults.proxy import Proxy
from tests.faults.sentinels import fail_over, master_port, replica_of, sentinels
from tests.integration import processes


@pytest.mark.timeout(600)
def test_survives_a_promotion_with_lost_writes(arena: Arena, long: bool) -> None:
    """A run completes on a promoted replica that lacks the last second of writes.

    The broker's address now leads to the replica. Connections to the old master stay open, and the old master replies
    READONLY.
    """
    images = 4_000 if long else 600
    with (
        Proxy(arena.server.port) as replication,
        replica_of(arena.server, arena.folder / "replica", replication.port) as replica,
        Proxy(arena.server.port) as address,
    ):
        url = f"redis://127.0.0.1:{address.port}/0"
        with _run_with_workers(arena, url, images):
            arena.count_fault()
            replication.stall()
            let_last(1.0)
            address.move_to(replica.port)
            replica.client.replicaof("NO", "ONE")
            arena.server.client.replicaof("127.0.0.1", replica.port)
        assert replica.client.info("replication")["role"] == "master"
    arena.verify_redis_error("failover: a replica is promoted, 1 s of writes lost", "plain workers", "waits")


@pytest.mark.timeout(600)
def test_survives_two_failovers_by_sentinels(arena: Arena, long: bool) -> None:
    """A run completes if the Sentinels fail over twice: first on command, then because the new master was killed."""
    images = 4_000 if long else 600
    with (
        replica_of(arena.server, arena.folder / "replica") as replica,
        sentinels(arena.folder, arena.server) as url,
        _run_with_workers(arena, url, images) as run,
    ):
        arena.count_fault()
        fail_over(url)
        processes.eventually(lambda: master_port(url) == replica.port, "the first failover", 60)
        processes.eventually(lambda: arena.server.client.info("replication")["role"] == "slave", "the demotion", 60)
        arena.wait_until_saved(images // 2, run)
        arena.count_fault()
        replica.kill()
        processes.eventually(lambda: master_port(url) == arena.server.port, "the second failover", 90)
    arena.verify_redis_error("failover by Sentinels, twice", "plain workers", "waits")


@contextmanager
def _run_with_workers(arena: Arena, url: str, images: int) -> Iterator[processes.Background]:
    """Start two workers and a run; check at the end that the run succeeded without crashes.

    Yield the run when a quarter of its images is saved.
    """
    # The images are slow enough for the run to last until the second failover.
    source = arena.list(images, rate=3_000)
    arguments = ["run", source, "--out", arena.out, "--shard-size", "250", "--broker", url, "--json"]
    fleet = Fleet(arena.folder, url)
    try:
        fleet.add(2, slots=16)
        with processes.started("run", [sys.executable, "-m", "producer", *map(str, arguments)], arena.folder) as run:
            arena.wait_until_saved(images // 4, run)
            yield run
            assert run.wait(400).json()["success"] == images
        assert fleet.deaths == 0
    finally:
        fleet.end(0.0)
