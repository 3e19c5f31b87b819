"""Run the baseline of threads, and print JSON: ``python -m benchmarks.threads LIST OUT THREADS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from producer.comparison.baseline import download_with_threads
from producer.sources import url_list
from tasks import runtime_tuning
from tasks.download import downloader as downloading
from tasks.model import RunOptions
from tasks.storage.local_store import LocalStore


def main() -> None:
    """Fetch a list with threads; print the number of saved images and the seconds."""
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    source, out, threads = sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3])
    out.mkdir(parents=True)
    requests = list(url_list.read(source))
    downloader = downloading.create_downloader()
    saved = 0

    def count(outcome: object) -> None:
        nonlocal saved
        saved += getattr(outcome, "ok", False)

    seconds = download_with_threads(requests, RunOptions(str(out), 1000), LocalStore(out), downloader, count, threads)
    print(json.dumps({"success": saved, "wall_seconds": seconds}))


if __name__ == "__main__":
    main()
