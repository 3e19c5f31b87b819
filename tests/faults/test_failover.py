"""A replica takes over in the middle of a run: the writes that it lacks are lost, found, and sent again."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

import pytest

from tests.faults.answers import hold
from tests.faults.harness import Arena, Fleet
from tests.faults.proxy import Proxy
from tests.faults.sentinels import fail_over, master_port, replica_of, sentinels
from tests.integration import parts


@pytest.mark.timeout(600)
def test_replica_is_promoted(arena: Arena, long: bool) -> None:
    """The address moves to the promoted replica, which lacks the last second of writes; connections to the old master
    stay open, and it answers READONLY.
    """
    images = 4_000 if long else 600
    with (
        Proxy(arena.server.port) as replication,
        replica_of(arena.server, arena.folder / "replica", replication.port) as replica,
        Proxy(arena.server.port) as address,
    ):
        url = f"redis://127.0.0.1:{address.port}/0"
        fleet = Fleet(arena.folder, url)
        try:
            fleet.add(2, slots=16)
            with _started(arena, url, images) as run:
                arena.until_saved(images // 4, run)
                arena.strike()
                replication.stall()
                hold(1.0)
                address.lead_to(replica.port)
                replica.client.replicaof("NO", "ONE")
                arena.server.client.replicaof("127.0.0.1", replica.port)
                assert run.wait(400).json()["success"] == images
            assert fleet.deaths == 0
            assert replica.client.info("replication")["role"] == "master"
        finally:
            fleet.end(0.0)
    arena.proven_answer("failover: a replica is promoted, 1 s of writes lost", "plain workers", "waits")


@pytest.mark.timeout(600)
def test_sentinels_fail_over(arena: Arena, long: bool) -> None:
    """The Sentinels promote the replica while the master lives, and again after the new master was killed."""
    images = 4_000 if long else 600
    with (
        replica_of(arena.server, arena.folder / "replica") as replica,
        sentinels(arena.folder, arena.server) as url,
    ):
        fleet = Fleet(arena.folder, url)
        try:
            fleet.add(2, slots=16)
            with _started(arena, url, images) as run:
                arena.until_saved(images // 4, run)
                arena.strike()
                fail_over(url)
                parts.eventually(lambda: master_port(url) == replica.port, "the first failover", 60)
                parts.eventually(lambda: arena.server.client.info("replication")["role"] == "slave", "the demotion", 60)
                arena.until_saved(images // 2, run)
                arena.strike()
                replica.kill()
                parts.eventually(lambda: master_port(url) == arena.server.port, "the second failover", 90)
                assert run.wait(400).json()["success"] == images
            assert fleet.deaths == 0
        finally:
            fleet.end(0.0)
    arena.proven_answer("failover by Sentinels, twice", "plain workers", "waits")


def _started(arena: Arena, url: str, images: int) -> AbstractContextManager[parts.Background]:
    # Slow enough to last until the second failover.
    source = arena.list(images, rate=3_000)
    arguments = ["run", source, "--out", arena.out, "--shard-size", "250", "--broker", url, "--json"]
    return parts.started("run", [sys.executable, "-m", "producer", *map(str, arguments)], arena.folder)
