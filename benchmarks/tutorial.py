"""What a good tutorial on Celery writes: a task for each image, chords, the default transport and settings.

It imports nothing of ours. What is better than in most tutorials: a ``requests.Session`` that all tasks of a process
share, and chords of a bounded size. ``AsyncResult.get`` of a chord's body takes the message of one finished part at a
time, and after each looks at all parts of the chord, so the time for a chord of all images grows with its square.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import requests
from celery import Celery, chord
from requests.adapters import HTTPAdapter

#: The variable that says where Redis is.
_REDIS = "TUTORIAL_REDIS"

url = os.environ.get(_REDIS, "redis://localhost:6379/0")
app = Celery("tutorial", broker=url, backend=url)
session = requests.Session()
# Enough for the threads of the widest pool.
session.mount("http://", HTTPAdapter(pool_maxsize=64))


@app.task
def fetch(address: str, folder: str) -> str:
    """Download one image, and return where it is."""
    response = session.get(address, timeout=10)
    response.raise_for_status()
    path = Path(folder, address.rpartition("/")[2])
    path.write_bytes(response.content)
    return str(path)


@app.task
def collect(paths: list[str]) -> int:
    """Return how many images there are."""
    return len(paths)


def download(addresses: Sequence[str], folder: Path, size: int) -> int:
    """Send a list in chords of a size, wait for all of them, and return how many images were saved."""
    parts = [addresses[first : first + size] for first in range(0, len(addresses), size)]
    chords = [chord([fetch.s(address, str(folder)) for address in part])(collect.s()) for part in parts]
    return sum(result.get() for result in chords)
