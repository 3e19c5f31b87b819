"""Profile one worker of a fleet with py-spy while it downloads small images.

``python -m benchmarks.profiling`` profiles two separate runs. In the first run, py-spy samples all running threads,
whether they run on a core or in the kernel. In the second run, py-spy samples the thread that holds Python's lock (the
GIL). Each sample has an innermost known frame. The sample counts for the first activity in `_ACTIVITIES` that contains
this frame. The shares are saved in ``benchmarks/results/profile.json``, and `make docs` turns them into a table.

py-spy does not pause the worker for a sample. If py-spy paused the worker, the same thread would still hold Python's
lock at the next sample. Most samples would then show the thread that takes messages.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks import processes, records, web
from benchmarks.pictures import SMALL, create_gallery
from benchmarks.programs import PY_SPY

#: Samples per second, and seconds of sampling. The first `_START` seconds of a run are skipped as its startup.
_RATE, _SECONDS, _START = 250, 10, 5.0
#: The activities of a worker, with the files, folders or functions of each.
_ACTIVITIES: dict[str, tuple[str, ...]] = {
    "sending and receiving": (
        "tasks/download/sockets.py",
        "tasks/download/guard.py",
    ),
    "saving": ("tasks/storage/store.py", "tasks/storage/fsync.py"),
    "SHA-256": ("digest (tasks/images/identify.py",),
    "the image's header (Pillow)": ("tasks/images/identify.py", "PIL/"),
    "HTTP (requests, urllib3, http.client)": (
        *("tasks/download/connection.py", "tasks/download/adapters.py"),
        *("requests/", "urllib3/", "http/"),
    ),
    "around the download": (
        *("tasks/download/downloader.py", "tasks/download/body.py", "tasks/download/urls.py", "tasks/fetch.py"),
        *("tasks/jobs.py", "tasks/worker.py", "tasks/broker/progress.py", "tasks/model.py"),
    ),
    "collecting shards": ("tasks/collect.py", "tasks/storage/manifest.py", "tasks/storage/plan.py"),
    "counting parts, acknowledging": ("tasks/broker/ack_batcher.py", "tasks/broker/backend.py"),
    "Celery: running a task": ("celery/app/", "celery/backends/"),
    "taking messages from Redis": (
        "tasks/broker/transport.py",
        "tasks/broker/poller.py",
        "tasks/broker/qos.py",
        "kombu/",
        "redis/",
    ),
    "Celery: receiving a task": ("celery/", "concurrent/futures/", "vine/"),
}
_OTHER = "the rest"
#: Waits that py-spy counts as running: a slot waits for a task, the worker waits for messages, and the batcher waits
#: for more acknowledgements.
_IDLE = (
    "_worker (concurrent/futures/thread.py",
    "_epoll.poll (kombu/utils/eventio.py",
    "AckBatcher._run (tasks/broker/ack_batcher.py",
)
_LINE = re.compile(r":\d+\)$")


def main() -> None:
    """Profile, print the shares, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        place = Path(folder)
        gallery = create_gallery(SMALL, 2_000, place / "pictures")
        with web.serve(gallery.folder, place / "nginx", tls=False) as site:
            source = place / "urls.txt"
            urls = (f"{site.url}/{number % 2_000}.jpg?{number}\n" for number in range(arguments.images))
            source.write_text("".join(urls), encoding="utf-8")
            found = {
                kind: _profile(source, place / kind, site.address, options)
                for kind, options in (("running", ()), ("gil", ("--gil",)))
            }
    result = {"images": arguments.images, "rate": _RATE, "seconds": _SECONDS, "shares": found}
    for kind, shares in found.items():
        print(kind)
        for name, share in shares.items():
            print(f"  {share:6.1%}  {name}")
    print(f"written to {records.save('profile', result)}")


def shares(samples: Sequence[tuple[list[str], int]]) -> dict[str, float]:
    """Return the share of each activity.

    A sample is a stack, with the outermost frame first, and its number of occurrences.
    """
    counted: Counter[str] = Counter()
    for stack, number in samples:
        if not any(_is_in(stack[-1], idle) for idle in _IDLE):
            counted[_activity(stack)] += number
    total = counted.total() or 1
    return {name: round(number / total, 4) for name, number in counted.most_common()}


def _activity(stack: Sequence[str]) -> str:
    for frame in reversed(stack):
        for name, ends in _ACTIVITIES.items():
            if any(_is_in(frame, end) for end in ends):
                return name
    return _OTHER


def _is_in(frame: str, end: str) -> bool:
    """Return whether a frame is the given function, or belongs to the given file or folder.

    A frame is a text ``function (file:line)``.
    """
    return _LINE.sub("", frame) == end if " (" in end else f"({end}" in frame or f"/{end}" in frame


def _profile(source: Path, out: Path, address: str, options: Sequence[str]) -> dict[str, float]:
    """Return the shares of one worker's time in a run."""
    raw = out.with_suffix(".txt")
    profilers: list[threading.Thread] = []

    def profile_first_worker(role: str, process: psutil.Process) -> None:
        if role == processes.WORKERS and not profilers:
            profilers.append(threading.Thread(target=_sample, args=(process.pid, raw, options)))
            profilers[0].start()

    command = [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]
    processes.measure(command, {"IMAGEFLEET_ALLOW_NETWORKS": address}, profile_first_worker)
    for thread in profilers:
        thread.join()
    samples = []
    for line in raw.read_text(encoding="utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        samples.append((stack.split(";"), int(number)))
    return shares(samples)


def _sample(worker: int, raw: Path, options: Sequence[str]) -> None:
    """Wait until the run has started, sample a worker's threads with py-spy, and write the stacks to a file."""
    time.sleep(_START)
    record = ["record", "--nonblocking", "--format", "raw", "--rate", str(_RATE), "--duration", str(_SECONDS), *options]
    subprocess.run(
        [PY_SPY.required(), *record, "--output", str(raw), "--pid", str(worker)], check=True, capture_output=True
    )


if __name__ == "__main__":
    main()
