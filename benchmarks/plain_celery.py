"""Plain Celery as a command: a Redis with our ``config/redis.conf``, one worker, and the list sent as chords.

``python -m benchmarks.plain_celery LIST OUT POOL CONCURRENCY CHORD`` runs ``tutorial.py`` and prints JSON. It imports
no code of imagefleet, because ``tasks.celery`` would make every connection use our transport.
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
#: Seconds to wait for the worker.
_TIMEOUT = 60.0
#: Seconds that a process may take to end. The limit is the same as for workers of a local fleet.
_GRACE = 4.0


def main() -> None:
    """Download a list.

    Print the number of saved images, and the seconds from the first task to the last chord body.
    """
    source, out, pool, concurrency, size = sys.argv[1:]
    addresses = Path(source).read_text(encoding="utf-8").split()
    folder = Path(out).resolve()
    folder.mkdir(parents=True)
    with _redis() as url:
        # The import is not at the top, because the imported module reads its Redis URL during the import.
        os.environ["TUTORIAL_REDIS"] = url
        from benchmarks import tutorial

        with _worker(pool, concurrency):
            deadline = time.monotonic() + _TIMEOUT
            while not tutorial.app.control.ping(timeout=0.3):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the worker did not answer within {_TIMEOUT:.0f} s")
            started = time.monotonic()
            saved = tutorial.download(addresses, folder, int(size))
            seconds = time.monotonic() - started
    print(json.dumps({"success": saved, "wall_seconds": seconds}))


@contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis on a free loopback port; yield its URL."""
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
    """Terminate an idle process. After `_GRACE` seconds, kill the process and its children."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
