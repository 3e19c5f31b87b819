"""Run one download for a test, and count its attempts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.deadline import Deadline
from tasks.download.downloader import Download, Downloader
from tasks.errors import FetchError
from tasks.model import FetchOptions
from tests.unit.conftest import ONCE


def download(downloader: Downloader, url: str, options: FetchOptions = ONCE) -> tuple[Download, int]:
    """Return a URL's download and the number of attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    return downloader.download(url, options, deadline, lambda _: attempts.append(None)), len(attempts)


def failure(downloader: Downloader, url: str, options: FetchOptions = ONCE) -> tuple[FetchError, int]:
    """Return the error of a failed download and the number of attempts."""
    attempts: list[None] = []
    deadline = Deadline(options.timeout, options.deadline)
    with pytest.raises(FetchError) as caught:
        downloader.download(url, options, deadline, lambda _: attempts.append(None))
    return caught.value, len(attempts)


def cut_off(*pieces: bytes) -> Iterator[bytes]:
    """Send the pieces, then close the connection."""
    yield from pieces
    raise ConnectionError
