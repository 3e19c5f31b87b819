"""Plain Celery as a command: a Redis with our ``config/redis.conf``, one worker, and the list sent as chords.

``python -m benchmarks.plain_celery LIST OUT POOL CONCURRENCY CHORD`` prints JSON. What runs is ``tutorial.py``; nothing
of ours is imported, because with ``tasks.celery`` every connection would use our transport.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REDIS_CONF = Path(__file__).parents[1] / "config" / "redis.conf"
_PATIENCE = 60.0
#: Seconds that a process has to end, as a local fleet's workers have.
_GRACE = 4.0


def main() -> None:
    """Download a list, and print how many images were saved, and the seconds from the first task to the last body."""
    source, out, pool, concurrency, size = sys.argv[1:]
    addresses = Path(source).read_text(encoding="utf-8").split()
    folder = Path(out).resolve()
    folder.mkdir(parents=True)
    with _redis() as url:
        # It is imported here because it asks where its Redis is when it is imported.
        os.environ["TUTORIAL_REDIS"] = url
        from benchmarks import tutorial

        with _worker(pool, concurrency):
            ends = time.monotonic() + _PATIENCE
            while not tutorial.app.control.ping(timeout=0.3):
                if time.monotonic() > ends:
                    raise RuntimeError("the worker does not answer")
            started = time.monotonic()
            saved = tutorial.download(addresses, folder, int(size))
            seconds = time.monotonic() - started
    print(json.dumps({"success": saved, "wall_seconds": seconds}))


@contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis on a free port of loopback; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="plain-celery-") as folder:
        argv = ["redis-server", str(_REDIS_CONF), "--port", port, "--dir", folder, "--loglevel", "warning"]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            _end(server)


@contextmanager
def _worker(pool: str, concurrency: str) -> Iterator[None]:
    argv = [sys.executable, "-m", "celery", "-A", "benchmarks.tutorial", "worker", "-P", pool, "-c", concurrency]
    worker = subprocess.Popen([*argv, "-l", "WARNING"], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        _end(worker)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process; one that has nothing to do any more and still takes its time is killed with its children."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
