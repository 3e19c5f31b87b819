"""``python -m tests.integration.attack URL FOLDER FAULT…``: all slots of one process ask a hostile server at once.

Prints how each download ended and when, and how much memory the process took at its worst.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.download import Downloader
from tasks.fetch import fetch
from tasks.guard import Guard
from tasks.model import FetchOptions, RunOptions
from tasks.session import Sessions
from tasks.storage import Store

SLOTS = 64
#: Bytes of a body, and seconds of a download.
CAP, DEADLINE = 1 << 20, 4.0
HEAVY = ("/fault/gzip-bomb", "/fault/huge?declared=no")
#: Bombs whose decoders hold a window besides, in bytes, and how many of them burst at once.
WINDOWED, WINDOW, AT_ONCE = ("/fault/br-bomb", "/fault/zstd-bomb"), 16 << 20, 16


def main() -> None:
    """Fetch everything at once, and tell."""
    url, folder, *faults = sys.argv[1:]
    # All of them once, and then what fills a slot to its cap, in all slots at once.
    jobs = [*faults, *(HEAVY[number % len(HEAVY)] for number in range(2 * SLOTS))]
    others = range(len(jobs), len(jobs) + AT_ONCE)
    jobs += [WINDOWED[number % len(WINDOWED)] for number in others]
    run = RunOptions(folder, 1000, FetchOptions(timeout=1.0, deadline=DEADLINE, retries=0, max_bytes=CAP))
    store, downloader = Store(Path(folder)), Downloader(Sessions(Guard([url.removeprefix("http://")])))

    def attempt(index: int) -> tuple[str, str | None, float]:
        begun = time.monotonic()
        outcome = fetch(url + jobs[index], index, run, store, downloader)
        return jobs[index], outcome.reason, time.monotonic() - begun

    with ThreadPoolExecutor(SLOTS) as pool:
        # Threads, parsers and tables that any download needs are there before it begins.
        list(
            pool.map(
                lambda index: fetch(f"{url}/images/{index}.jpg", 500 + index, run, store, downloader), range(SLOTS)
            )
        )
        ended: list[tuple[str, str | None, float]] = []
        grown = _growth(lambda: ended.extend(pool.map(attempt, range(others[0]))))
        windows = _growth(lambda: ended.extend(pool.map(attempt, others)))
    print(json.dumps({"ended": ended, "grown": grown, "grown_with_windows": windows}))


def _growth(work: Callable[[], None]) -> int:
    """Return by how many bytes this process grew at the worst moment of a work."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted from here
    work()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    """Return a line of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


if __name__ == "__main__":
    main()
