"""The network between workers and Redis stalls, breaks or half-closes connections."""

from __future__ import annotations

import time
from itertools import cycle

import pytest

from tests.faults.harness import Arena, Fleet
from tests.faults.proxy import Proxy


@pytest.mark.timeout(400)
def test_survives_stalled_broken_and_half_closed_connections(arena: Arena, long: bool) -> None:
    """If all connections between workers and Redis fail repeatedly, for up to a minute each time, no image is lost."""
    images, seconds = (6_000, 60.0) if long else (1_500, 15.0)
    with Proxy(arena.server.port) as proxy:
        fleet = Fleet(arena.folder, f"redis://127.0.0.1:{proxy.port}/0")
        try:
            fleet.add(2, slots=16)
            with arena.run(arena.list(images, rate=2_000), "--shard-size", "250") as run:
                arena.wait_until_saved(images // 20, run)
                deadline = time.monotonic() + seconds
                for fault in cycle([proxy.stall, proxy.cut, proxy.half_close]):
                    if time.monotonic() > deadline:
                        break
                    arena.count_fault()
                    fault()
                    time.sleep(3.0 if fault == proxy.stall else 1.0)
                    proxy.forward()
                    time.sleep(0.5)
                assert run.wait(300).json()["success"] == images
        finally:
            fleet.end(0.0)
    arena.verify("connections that stall, break and half-close")
