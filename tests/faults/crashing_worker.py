"""A worker that some images kill: ``celery -A tests.faults.crashing_worker worker``.

An image with ``poison`` in its URL aborts the process that fetches it. A worker fetches a suspect image in a separate
process. The image aborts this process too, because ``python -m tests.faults.crashing_worker`` replaces ``python -m
tasks.isolation``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tasks import isolation
from tasks.celery import app
from tasks.download.downloader import Downloader

__all__ = ["app"]
_download = Downloader.download


def _abort_or_download(self: Downloader, url: str, *rest: Any) -> Any:
    if "poison" in url:
        os.abort()
    return _download(self, url, *rest)


Downloader.download = _abort_or_download  # type: ignore[assignment, method-assign]
isolation.PROGRAM = (sys.executable, "-m", __spec__.name)

if __name__ == "__main__":
    isolation.main()
