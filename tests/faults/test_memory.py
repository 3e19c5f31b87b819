"""The memory of the producer and Redis does not grow with the list, and a Redis with a limit refuses no write."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.faults import table
from tests.faults.harness import Arena, Site
from tests.integration import processes

#: Memory limit of Redis in bytes. Redis refuses writes beyond this limit.
_LIMIT = 256 * 2**20
_MAX_GROWTH = 1.1


def peaks(images: int, window: int, site: Site, folder: Path) -> tuple[int, int]:
    """Make a run without downloads, and return the peak memory of the producer and of Redis in bytes."""
    folder.mkdir()
    source = folder / "list.txt"
    with source.open("w") as lines:
        lines.writelines(f"http://127.0.0.1/{number:09d}.jpg\n" for number in range(images))
    with Arena(folder, site, ("--maxmemory", str(_LIMIT))) as arena:
        arena.fleet.add(2, "--include", "benchmarks.empty", slots=16)
        started = time.monotonic()
        with arena.run(source, "--window", str(window)) as run:
            memory, over = [0], threading.Event()
            sampler = threading.Thread(target=_sample, args=[run.process.pid, memory, over])
            sampler.start()
            numbers = run.wait(3600).json()
            over.set()
            sampler.join()
        assert numbers["success"] == numbers["total"] == images
        # Redis does not log the writes that it refuses, so the test searches the logs of workers and producers.
        assert "OOM" not in run.err + arena.fleet.logs()
        found = arena.server.client.info("memory")
        seconds = time.monotonic() - started
    row = table.Row("no fault: empty downloads, Redis limited to 256 MB", 1, images, numbers["total"], 0, 0, seconds)
    table.rows.append(row)
    processes.remove(arena.out)
    return max(memory), int(found["used_memory_peak"])


def _sample(pid: int, memory: list[int], over: threading.Event) -> None:
    process = psutil.Process(pid)
    while not over.wait(0.25):
        try:
            memory.append(process.memory_full_info().uss)
        except psutil.Error:
            return


@pytest.mark.timeout(4000)
def test_memory_does_not_grow_with_the_list(site: Site, tmp_path: Path, long: bool) -> None:
    """If the list becomes many times as long, the producer and a limited Redis need less than 10 % more memory."""
    # Even the shorter list fills the window (the maximum number of shards in flight) several times.
    sizes, window = ((100_000, 1_000_000), 8) if long else ((10_000, 30_000), 2)
    small, large = (peaks(images, window, site, tmp_path / str(images)) for images in sizes)
    growth = [after / before for before, after in zip(small, large, strict=True)]
    assert max(growth) < _MAX_GROWTH, (small, large)
