"""``python -m tests.integration.attack URL FOLDER FAULT…``: let all slots of one process fetch from a hostile server.

Prints the path, the reason and the seconds of each download. Also prints by how many bytes the peak memory grew.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks import runtime_tuning
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.fetch import FetchRequest, fetch
from tasks.model import FetchOptions, RunOptions
from tasks.storage.local_store import LocalStore
from tasks.throttle_options import RobotsPolicy, ThrottleOptions

SLOTS = 64
#: The maximum size of a body in bytes, and the deadline of a download in seconds.
CAP, DEADLINE = 1 << 20, 4.0
#: The maximum size of a slot's buffers in bytes: a block of the body, its rest, a decoded piece, and the decoder.
BUFFERS = 4 * 64 * 1024
HEAVY = ("/fault/gzip-bomb", "/fault/huge?declared=no")
#: The bombs whose decoders need an extra window, the size of this window in bytes, and the number of bombs at a time.
WINDOWED, WINDOW, AT_ONCE = ("/fault/br-bomb", "/fault/zstd-bomb"), 16 << 20, 16


_OPTIONS = FetchOptions(
    timeout=1.0,
    deadline=DEADLINE,
    retries=0,
    max_bytes=CAP,
    throttle=ThrottleOptions(robots=RobotsPolicy.OBEY),
)


def main() -> None:
    """Fetch all routes at the same time, and print the report."""
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    url, folder, *faults = sys.argv[1:]
    # First, each route is fetched once. Then, all slots fetch routes with bodies of the maximum size at the same time.
    jobs = [*faults, *(HEAVY[number % len(HEAVY)] for number in range(2 * SLOTS))]
    others = range(len(jobs), len(jobs) + AT_ONCE)
    jobs += [WINDOWED[number % len(WINDOWED)] for number in others]
    run = RunOptions(folder, 1000, _OPTIONS)
    store, downloader = LocalStore(Path(folder)), Downloader(Sessions(Guard([url.removeprefix("http://")])))

    def attempt(index: int) -> tuple[str, str | None, float]:
        started = time.monotonic()
        outcome = fetch(FetchRequest(url + jobs[index], index), run, store, downloader)
        return jobs[index], outcome.reason, time.monotonic() - started

    with ThreadPoolExecutor(SLOTS) as pool:
        # Warm up: create the threads, parsers and tables that any download needs.
        list(
            pool.map(
                lambda index: fetch(FetchRequest(f"{url}/images/{index}.jpg", 500 + index), run, store, downloader),
                range(SLOTS),
            )
        )
        ended: list[tuple[str, str | None, float]] = []
        grown = _growth(lambda: ended.extend(pool.map(attempt, range(others[0]))))
        windows = _growth(lambda: ended.extend(pool.map(attempt, others)))
    print(json.dumps({"ended": ended, "grown": grown, "grown_with_windows": windows}))


def _growth(work: Callable[[], None]) -> int:
    """Return by how many bytes the work raises the peak memory of this process."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Reset the peak.
    work()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    """Return the value of a line of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


if __name__ == "__main__":
    main()
