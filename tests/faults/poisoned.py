"""A worker that dies of some images, started by ``celery -A tests.faults.poisoned worker``.

An image whose URL contains ``poison`` aborts the process that fetches it, also where it is fetched alone:
``python -m tests.faults.poisoned`` stands in for ``python -m tasks.alone``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tasks import alone
from tasks.celery import app
from tasks.download import Downloader

__all__ = ["app"]
_download = Downloader.download


def _dying(self: Downloader, url: str, *rest: Any) -> Any:
    if "poison" in url:
        os.abort()
    return _download(self, url, *rest)


Downloader.download = _dying  # type: ignore[assignment, method-assign]
alone.PROGRAM = (sys.executable, "-m", __spec__.name)

if __name__ == "__main__":
    alone.main()
