"""Where a worker's time goes: one of a fleet's workers is looked at by py-spy while it downloads small pictures.

``python -m benchmarks.profiling`` looks twice, each time at a run of its own: at threads that run, on a core or in the
kernel, and at the thread that holds Python's lock (the GIL). Each sample counts for the first of `_PLACES` that its
innermost known frame belongs to. Writes ``benchmarks/results/profile.json``; `make docs` makes a table of it.

py-spy does not stop the worker for a look: whoever holds Python's lock at such a moment would hold it at the next one,
too, and most looks would find the thread that takes messages.
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
from benchmarks.pictures import SMALL, hang
from benchmarks.programs import PY_SPY

#: Looks a second, and seconds of looking; the first seconds of a run are its start.
_RATE, _SECONDS, _START = 250, 10, 5.0
#: What a worker does, and the files, folders or functions that belong to it.
_PLACES: dict[str, tuple[str, ...]] = {
    "sending and receiving": (
        *("_Paced.sendall (tasks/connection.py", "_Paced.recv_into (tasks/connection.py"),
        "tasks/guard.py",
    ),
    "saving": ("tasks/storage.py", "tasks/disk.py"),
    "SHA-256": ("digest (tasks/images.py",),
    "the image's header (Pillow)": ("tasks/images.py", "PIL/"),
    "HTTP (requests, urllib3, http.client)": (
        *("tasks/connection.py", "tasks/session.py"),
        *("requests/", "urllib3/", "http/"),
    ),
    "around the download": (
        *("tasks/download.py", "tasks/fetch.py", "tasks/urls.py"),
        *("tasks/jobs.py", "tasks/progress.py", "tasks/model.py"),
    ),
    "collecting shards": ("tasks/collect.py", "tasks/manifest.py", "tasks/plan.py"),
    "counting parts, acknowledging": ("tasks/settle.py", "tasks/backend.py"),
    "Celery: running a task": ("celery/app/", "celery/backends/"),
    "taking messages from Redis": ("tasks/transport.py", "kombu/", "redis/"),
    "Celery: receiving a task": ("celery/", "concurrent/futures/", "vine/"),
}
_OTHER = "the rest"
#: Where a slot waits for a task, the worker for messages, and the settler for company: py-spy takes them for running.
_IDLE = (
    "_worker (concurrent/futures/thread.py",
    "_epoll.poll (kombu/utils/eventio.py",
    "Settler._run (tasks/settle.py",
)
_LINE = re.compile(r":\d+\)$")


def main() -> None:
    """Look, print the shares, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        place = Path(folder)
        gallery = hang(SMALL, 2_000, place / "pictures")
        with web.served(gallery.folder, place / "nginx", tls=False) as site:
            source = place / "urls.txt"
            names = (f"{site.url}/{number % 2_000}.jpg?{number}\n" for number in range(arguments.images))
            source.write_text("".join(names), encoding="utf-8")
            found = {
                kind: _profile(source, place / kind, site.address, options)
                for kind, options in (("running", ()), ("gil", ("--gil",)))
            }
    result = {"images": arguments.images, "rate": _RATE, "seconds": _SECONDS, "shares": found}
    for kind, shares in found.items():
        print(kind)
        for name, share in shares.items():
            print(f"  {share:6.1%}  {name}")
    print(f"written to {records.keep('profile', result)}")


def shares(samples: Sequence[tuple[list[str], int]]) -> dict[str, float]:
    """Return the part of each place in samples: stacks, the outermost frame first, and how often each was seen."""
    counted: Counter[str] = Counter()
    for stack, number in samples:
        if not any(_is_in(stack[-1], idle) for idle in _IDLE):
            counted[_place(stack)] += number
    total = counted.total() or 1
    return {name: round(number / total, 4) for name, number in counted.most_common()}


def _place(stack: Sequence[str]) -> str:
    for frame in reversed(stack):
        for name, ends in _PLACES.items():
            if any(_is_in(frame, end) for end in ends):
                return name
    return _OTHER


def _is_in(frame: str, end: str) -> bool:
    """Tell whether a frame, ``function (file:line)``, is of a file or folder, or is the function that is named."""
    return _LINE.sub("", frame) == end if " (" in end else f"({end}" in frame or f"/{end}" in frame


def _profile(source: Path, out: Path, address: str, options: Sequence[str]) -> dict[str, float]:
    """Return the shares of a worker's time in a run."""
    raw = out.with_suffix(".txt")
    spying: list[threading.Thread] = []

    def look(role: str, process: psutil.Process) -> None:
        if role == processes.WORKERS and not spying:
            spying.append(threading.Thread(target=_spy, args=(process.pid, raw, options)))
            spying[0].start()

    command = [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]
    processes.measure(command, {"IMAGEFLEET_ALLOW_NETWORKS": address}, look)
    for thread in spying:
        thread.join()
    samples = []
    for line in raw.read_text(encoding="utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        samples.append((stack.split(";"), int(number)))
    return shares(samples)


def _spy(worker: int, raw: Path, options: Sequence[str]) -> None:
    """Write what a worker's threads are at, seen for a while once the run is under way."""
    time.sleep(_START)
    look = ["record", "--nonblocking", "--format", "raw", "--rate", str(_RATE), "--duration", str(_SECONDS), *options]
    subprocess.run(
        [PY_SPY.required(), *look, "--output", str(raw), "--pid", str(worker)], check=True, capture_output=True
    )


if __name__ == "__main__":
    main()
