"""Compare the CPU time of imagefleet and of img2dataset's Resizer for each resize mode, on the same bytes.

``python -m benchmarks.resizing`` measures both programs in turns, with one thread in each program. It writes the table
into ``docs/from-img2dataset.md``. Other programs on the machine affect CPU time less than elapsed time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.peer import running_peer, write_table
from benchmarks.peer_resizer import SIZE
from benchmarks.pictures import LARGE, SMALL, create_gallery
from tasks import runtime_tuning
from tasks.deadline import Deadline
from tasks.image_options import EncodeFormat, ResizeMode, ResizeOptions
from tasks.images.resize import resize_image

_KINDS = (SMALL, LARGE)
_PICTURES, _TURNS = 40, 7
_MAX_PIXELS = 100_000_000
#: The speed that each mode must reach, as a multiple of img2dataset's speed.
_GOAL = 1.5


def main() -> None:
    """Measure each kind of picture in each mode."""
    lines = [
        "| pictures | mode | imagefleet, ms | img2dataset, ms | times as fast |",
        "|---|---|---|---|---|",
    ]
    ratios = []
    # As in a worker.
    runtime_tuning.reduce_garbage_collection()
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    with running_peer() as peer, tempfile.TemporaryDirectory() as folder:
        for kind in _KINDS:
            gallery = create_gallery(kind, _PICTURES, Path(folder) / str(kind.bytes))
            bodies = [path.read_bytes() for path in sorted(gallery.folder.iterdir())]
            for mode in ResizeMode:
                ours, theirs = [], []
                for _ in range(_TURNS):
                    ours.append(_measure(bodies, mode) / _PICTURES * 1000)
                    theirs.append(peer.resize_all(gallery.folder, None, mode.value)["seconds"] / _PICTURES * 1000)
                here, there = statistics.median(ours), statistics.median(theirs)
                ratios.append(there / here)
                lines.append(f"| {kind.about} | `{mode}` | {here:.2f} | {there:.2f} | {there / here:.2f} |")
                print(lines[-1], flush=True)
    write_table("resize-speed", "\n".join(lines))
    print(f"{sum(ratio >= _GOAL for ratio in ratios)} of {len(ratios)} rows reach the goal of {_GOAL}.")


def _measure(bodies: list[bytes], mode: ResizeMode) -> float:
    """Return the CPU seconds to resize all bodies, with img2dataset's format and quality."""
    options = ResizeOptions(mode, SIZE, 95, encode_format=EncodeFormat.JPG)
    started = time.process_time()
    for body in bodies:
        resize_image(body, options, _MAX_PIXELS, Deadline(60, 60))
    return time.process_time() - started


if __name__ == "__main__":
    main()
