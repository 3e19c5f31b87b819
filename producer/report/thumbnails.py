"""Get the thumbnails of saved images from a separate process, within a time limit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import BinaryIO, Self, cast

from producer.report.frames import read_frame, write_frame

#: How long all thumbnails of a report may take in seconds, and how long the process may take for one of them.
_TOTAL_SECONDS, _IMAGE_SECONDS = 8.0, 6.0
#: How often the process may die. After that, the other images have no thumbnails.
_MOST_DEATHS = 3
#: Larger files have no thumbnail.
MAX_FILE_BYTES = 32 * 1024**2
_ROOT = Path(__file__).parents[2]


class ThumbnailMaker:
    """Makes thumbnails. Use it as a context manager, because it owns a process.

    The process starts with the context. So it is ready for the first image if other work is done in between.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0

    def __enter__(self) -> Self:
        self._process = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def make(self, body: bytes) -> bytes:
        """Return an image's thumbnail as a WebP; empty if there is none."""
        if self._deaths >= _MOST_DEATHS:
            return b""
        process = self._process = self._process or self._start()
        watchdog = threading.Timer(_IMAGE_SECONDS, process.kill)
        watchdog.start()
        try:
            with suppress(BrokenPipeError):
                write_frame(cast(BinaryIO, process.stdin), body)
            found = read_frame(cast(BinaryIO, process.stdout))
        finally:
            watchdog.cancel()
        if found is None:
            self._deaths += 1
            self._stop()
        return found or b""

    def make_all(self, bodies: Iterable[bytes | None]) -> Iterator[bytes]:
        """Yield a thumbnail for each image; empty for an image without one.

        Args:
            bodies: the images, read one at a time; None for a file that can't be read. When the time is over, the
                remaining images are not read.
        """
        ends = monotonic() + _TOTAL_SECONDS
        for body in bodies:
            if monotonic() > ends:
                return
            yield b"" if body is None else self.make(body)

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            [sys.executable, "-m", "producer.report.thumbnail_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C in the terminal reaches only the producer.
            start_new_session=True,
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        # Closing the pipe writes what is left in its buffer.
        with suppress(BrokenPipeError):
            process.communicate()
