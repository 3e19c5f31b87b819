"""JPEGs are encoded into files that are kept for the next image, because a new file takes time."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from producer.local_fleet.supervisor_client import ROOT
from tasks.image_options import ResizeOptions
from tasks.images import encode
from tests.encoding import encoded

#: A process prints its number of kept files, and the number of its child.
_FORK = """
import os
from PIL import Image
from tasks.image_options import ResizeOptions
from tasks.images import encode

encode.encode(Image.new("L", (8, 8)), ResizeOptions())
child = os.fork()
if child == 0:
    os._exit(len(encode._SINKS))
print(f"parent {len(encode._SINKS)}, child {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", end="")
"""


@pytest.fixture(autouse=True)
def _no_kept_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start each test without kept files."""
    monkeypatch.setattr(encode, "_SINKS", deque())
    yield
    for sink in encode._SINKS:
        sink.close()


def noise(side: int) -> Image.Image:
    """Return a square image that hardly compresses."""
    return Image.frombytes("RGB", (side, side), random.Random(side).randbytes(side * side * 3))


def test_small_image_after_a_large_one() -> None:
    """A kept file still has bytes of a larger image, but they do not get into the next image."""
    images = [noise(200), noise(20)]
    for image in images:
        assert encode.encode(image, ResizeOptions()) == encoded(image, "JPEG", quality=95)
    assert len(encode._SINKS) == 1


def test_threads_do_not_share_a_file() -> None:
    """Each of several threads encodes its own image, and afterwards few files are kept."""
    images = [noise(side) for side in range(100, 140)]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda image: encode.encode(image, ResizeOptions()), images))
    assert results == [encoded(image, "JPEG", quality=95) for image in images]
    assert 1 <= len(encode._SINKS) <= 4


def test_large_file_is_not_kept() -> None:
    """After a large image, the file's memory is returned."""
    assert len(encode.encode(noise(1500), ResizeOptions())) > 2**20
    assert not encode._SINKS


def test_forked_process_opens_its_own_file() -> None:
    """A forked process does not write into the files of its parent."""
    done = subprocess.run([sys.executable, "-c", _FORK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "parent 1, child 0"


def test_falls_back_to_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without in-memory files, such as macOS, a temporary file gets the same bytes."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert encode.encode(noise(50), ResizeOptions()) == encoded(noise(50), "JPEG", quality=95)


def test_refuses_a_partly_written_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An incomplete write is an error of this machine. The image is not saved, and the file is not kept."""

    class Full(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return (super().read() or b"")[:-1]

    monkeypatch.setattr(encode, "_open_sink", lambda: Full(tmp_path / "full", "w+"))
    with pytest.raises(OSError, match="only partly written"):
        encode.encode(noise(50), ResizeOptions())
    assert not encode._SINKS
