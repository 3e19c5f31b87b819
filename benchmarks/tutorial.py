"""Plain Celery as in a good tutorial: one task per image, chords, the default transport and settings.

It imports no code of imagefleet. It improves on most tutorials in two points. All tasks of a process share a
``requests.Session``, and the size of chords is limited. The limit is needed because of ``AsyncResult.get`` of a chord's
body. This call takes the message of one finished part at a time, and checks all parts after each message. So with a
single chord for all images, the time would grow with the square of the number of images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import requests
from celery import Celery, chord
from requests.adapters import HTTPAdapter

#: The environment variable with the URL of Redis.
_REDIS = "TUTORIAL_REDIS"

url = os.environ.get(_REDIS, "redis://localhost:6379/0")
app = Celery("tutorial", broker=url, backend=url)
session = requests.Session()
# Enough connections for all threads of the largest pool.
session.mount("http://", HTTPAdapter(pool_maxsize=64))


@app.task
def fetch(address: str, folder: str) -> str:
    """Download one image; return its path."""
    response = session.get(address, timeout=10)
    response.raise_for_status()
    path = Path(folder, address.rpartition("/")[2])
    path.write_bytes(response.content)
    return str(path)


@app.task
def collect(paths: list[str]) -> int:
    """Return the number of images."""
    return len(paths)


def download(addresses: Sequence[str], folder: Path, size: int) -> int:
    """Send a list in chords of ``size`` images, wait for all of them, and return the number of saved images."""
    parts = [addresses[first : first + size] for first in range(0, len(addresses), size)]
    chords = [chord([fetch.s(address, str(folder)) for address in part])(collect.s()) for part in parts]
    return sum(result.get() for result in chords)
