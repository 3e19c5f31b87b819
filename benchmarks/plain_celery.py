"""Plain Celery, as a tutorial would write it: one chord, the default transport, pool and settings.

``python -m benchmarks.plain_celery LIST OUT`` starts a Redis server and one worker with as many processes as the
machine has cores, downloads the list, and ends them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import requests
from celery import Celery, chord

from producer.local import server_binary

app = Celery("plain_celery", broker=os.environ.get("PLAIN_BROKER"), backend=os.environ.get("PLAIN_BROKER"))


@app.task(name="download")  # type: ignore[untyped-decorator]  # Celery's
def download(url: str, out: str) -> int:
    """Save an image under the last part of its URL."""
    answer = requests.get(url, timeout=10)
    answer.raise_for_status()
    return (Path(out) / url.rpartition("/")[2]).write_bytes(answer.content)


@app.task(name="report")  # type: ignore[untyped-decorator]
def report(sizes: list[int]) -> int:
    """Return how many images were saved."""
    return len(sizes)


def main() -> None:
    """Download a list."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    if app.conf.broker_url is None:
        _with_redis()
        return
    out.mkdir(parents=True)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "benchmarks.plain_celery", "worker", "--loglevel", "ERROR"],
        stdout=subprocess.DEVNULL,
    )
    try:
        urls = source.read_text().split()
        result = chord([download.s(url, str(out)) for url in urls])(report.s())
        if result.get() != len(urls):
            raise RuntimeError("not all were saved")
    finally:
        worker.terminate()
        worker.wait()


def _with_redis() -> None:
    """Do it all again in a process that has a Redis server."""
    with tempfile.TemporaryDirectory(prefix="plain-celery-") as folder:
        socket = Path(folder) / "redis.sock"
        argv = [server_binary(), "--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        try:
            env = {**os.environ, "PLAIN_BROKER": f"redis+socket://{socket}"}
            again = [sys.executable, "-m", "benchmarks.plain_celery", *sys.argv[1:]]
            subprocess.run(again, env=env, check=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
