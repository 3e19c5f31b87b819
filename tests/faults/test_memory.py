"""Memory: what the producer and Redis need does not grow with the list, and a Redis with a bound never refuses."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.faults import table
from tests.faults.harness import Arena, Site
from tests.integration import parts

#: Redis may take so much, and refuses a write beyond it.
_BOUND = 256 * 2**20
_GROWTH = 1.1


def peaks(images: int, window: int, pictures: Site, folder: Path) -> tuple[int, int]:
    """Return the producer's peak memory and Redis's, in bytes, in a run over so many images that nobody fetches."""
    folder.mkdir()
    source = folder / "list.txt"
    with source.open("w") as lines:
        lines.writelines(f"http://127.0.0.1/{number:09d}.jpg\n" for number in range(images))
    with Arena(folder, pictures, ("--maxmemory", str(_BOUND))) as arena:
        arena.fleet.add(2, "--include", "benchmarks.empty", slots=16)
        started = time.monotonic()
        with arena.run(source, "--window", str(window)) as run:
            memory, over = [0], threading.Event()
            watcher = threading.Thread(target=_watch, args=[run.process.pid, memory, over])
            watcher.start()
            numbers = run.wait(3600).json()
            over.set()
            watcher.join()
        assert numbers["success"] == numbers["total"] == images
        # Redis notes nothing of what it refused, but workers and producers would have failed over it.
        assert "OOM" not in run.err + arena.fleet.said()
        found = arena.server.client.info("memory")
        seconds = time.monotonic() - started
    row = table.Row("nothing: an empty fetch, Redis of 256 MB", 1, images, numbers["total"], 0, 0, seconds)
    table.rows.append(row)
    parts.remove(arena.out)
    return max(memory), int(found["used_memory_peak"])


def _watch(pid: int, memory: list[int], over: threading.Event) -> None:
    process = psutil.Process(pid)
    while not over.wait(0.25):
        try:
            memory.append(process.memory_full_info().uss)
        except psutil.Error:
            return


@pytest.mark.timeout(4000)
def test_memory_does_not_grow_with_the_list(pictures: Site, tmp_path: Path, long: bool) -> None:
    """Many times as many images take less than a tenth more memory of the producer and of Redis, which has a bound."""
    # The shorter list is several windows long, too.
    sizes, window = ((100_000, 1_000_000), 8) if long else ((10_000, 30_000), 2)
    small, large = (peaks(images, window, pictures, tmp_path / str(images)) for images in sizes)
    grown = [after / before for before, after in zip(small, large, strict=True)]
    assert max(grown) < _GROWTH, (small, large)
