"""A process returns the memory of large images once its threads have decoded them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from producer.local_fleet.supervisor_client import ROOT
from tasks import runtime_tuning

_STATM = Path("/proc/self/statm")
#: Eight threads resize images of 50 MB each. With glibc's defaults, each thread would keep 50 MB.
_PROGRAM = """
import io, resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images.resize import resize_image
from tasks.deadline import Deadline
from tasks.runtime_tuning import return_large_blocks

return_large_blocks()
sink = io.BytesIO()
Image.new("RGB", (3600, 3600)).save(sink, "PNG", compress_level=1)

def resize(_):
    return resize_image(sink.getvalue(), ResizeOptions(ResizeMode.KEEP_RATIO, 64), 10**8, Deadline(60, 60)).info.width

with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(resize, range(16))) == [64] * 16
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(pages * resource.getpagesize() // 2**20)
"""


@pytest.mark.skipif(not _STATM.exists(), reason="needs Linux: reads the process's memory from /proc/self/statm")
def test_large_images_are_freed() -> None:
    """Once all threads have finished large images, a process uses as little memory as before."""
    argv = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the C library has no mallopt, nothing happens."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    runtime_tuning.return_large_blocks()
