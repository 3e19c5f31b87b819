"""A dead host costs a few attempts, not a few for each of its images."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tasks.throttle import hosts
from tests.counting_server import CountingServer, Reply
from tests.faults.harness import Arena
from tests.integration import processes

_IMAGES, _SHARD = 300, 200
_WORKERS, _SLOTS = 2, 16
#: Each slot has an image with one attempt before the host rests, or with three if no other host has answered yet. After
#: the rests, two probes have one attempt each. A few more images may start while these failures are reported.
_MOST_ATTEMPTS = _WORKERS * _SLOTS * 3 + 20


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that drops the packets of new connections, because its queue is full and nobody accepts them."""
    listener, waiting = socket.socket(), [socket.socket() for _ in range(4)]
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
    finally:
        for opened in (*waiting, listener):
            opened.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dead_port", [refusing_port, silent_port])
def test_dead_host_costs_few_attempts(arena: Arena, dead_port: Callable[[], AbstractContextManager[int]]) -> None:
    """The images of a dead host fail without an attempt, the other images do not wait, and a retry gets all images."""
    with dead_port() as port:
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
    hosts.lift(arena.server.client, f"127.0.0.1:{port}")
    with CountingServer(arena.site.originals[0], lambda _: Reply(), port) as server:
        assert _retry(arena).json()["success"] == 2 * _IMAGES
        assert sorted(f"{server.url}{one.path}" for one in server.served()) == sorted(dead)


def _retry(arena: Arena) -> processes.Completed:
    words: list[Any] = [sys.executable, "-m", "producer", "retry", arena.out, "--broker", arena.server.url, "--json"]
    with processes.started("retry", [str(word) for word in words], arena.folder) as running:
        return running.wait(120)
