"""Measure memory and CPU as the list grows: one fleet downloads 10³, 10⁴, 10⁵ and 10⁶ small images from nginx.

``python -m benchmarks.growth`` measures 10³ to 10⁵. ``--images 1000000`` takes about twenty minutes. That size needs 5
GB of disk space during the measurement. The results are added to ``benchmarks/results/growth.json``. The file keeps
earlier results of other sizes if they were measured on the same machine with the same fleet.

Before ext4 allocates an inode, it searches the inodes deleted in the last minutes. So don't delete anything large on
the disk in the five minutes before a measurement. Otherwise, the first sizes are slower. To use another disk, set
TMPDIR to a folder there.

For the cost per image, the CPU time of a run with one image is subtracted from the CPU time of the run. The run with
one image is mostly the startup of Python. Without the subtraction, the measured cost of 10³ images would be mostly this
startup. The same fleet does both runs after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import records, web
from benchmarks.pictures import ImageKind, create_gallery
from benchmarks.watched import MeasuredFleet, RunUsage, Size
from config import limits
from producer.demo.drawing import draw_image
from producer.local_fleet.fleet import cores

_NAME = "growth"
#: Number of images on the nginx server. The lists repeat these images. Each repetition has another query in the URL.
_DIFFERENT_IMAGES = 300
_TINY = ImageKind("64 x 32, 1 KB", partial(draw_image, width=64, height=32), 1_000)
_WARM_UP = 1000
_STARTS = 3


def main() -> None:
    """Measure each size, print a line, and save the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=len(cores()))
    parser.add_argument("--concurrency", type=int, default=limits.CONCURRENCY)
    arguments = parser.parse_args()
    size = Size(arguments.workers, arguments.concurrency)
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        place = Path(folder)
        with web.serve(
            create_gallery(_TINY, _DIFFERENT_IMAGES, place / "pictures").folder, place / "nginx", tls=False
        ) as site:
            for images in sorted(arguments.images):
                row = _measure(images, size, place, site.url)
                path = _merge(images, row, size)
                print(f"{images:,} images: {json.dumps(row)}")
                print(f"written to {path}")


def _repeat(images: int) -> int:
    """Return the number of runs for a size. Short runs are repeated more often, because they vary more."""
    return 5 if images <= 1_000 else 3 if images <= 10_000 else 1


def _measure(images: int, size: Size, place: Path, url: str) -> dict[str, Any]:
    with MeasuredFleet(size, place, url, _DIFFERENT_IMAGES) as fleet:
        fleet.run(_WARM_UP)
        starts = [fleet.run(1) for _ in range(_STARTS)]
        return _row(images, starts, [fleet.run(images) for _ in range(_repeat(images))])


def _row(images: int, starts: list[RunUsage], runs: list[RunUsage]) -> dict[str, Any]:
    roles = list(runs[0].cpu)
    start = {role: median(run.cpu[role] for run in starts) for role in roles}
    cpu = {role: median(run.cpu[role] for run in runs) for role in roles}
    return {
        "repeat": len(runs),
        "images_per_second": records.spread([images / run.report["wall_seconds"] for run in runs]),
        "cpu_us_per_image": {role: round((cpu[role] - start[role]) / (images - 1) * 1e6, 1) for role in roles},
        "start_cpu_ms": {role: round(start[role] * 1000, 1) for role in roles},
        "peak_mib": {role: round(max(run.peak_memory[role] for run in runs) / 2**20, 1) for role in roles},
        "redis_allocated_mib": round(max(run.peak_allocated for run in runs) / 2**20, 1),
        "redis_keys_left": max(run.remaining_keys for run in runs),
    }


def _merge(images: int, row: dict[str, Any], size: Size) -> Path:
    """Save a row, and keep the saved rows of other sizes if they come from the same machine and fleet."""
    fleet = {"workers": size.workers, "concurrency": size.concurrency}
    path = records.FOLDER / f"{_NAME}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = old.get("machine") == records.machine() and old.get("fleet") == fleet
    rows = {**(old["sizes"] if same else {}), str(images): row}
    sizes = dict(sorted(rows.items(), key=lambda item: int(item[0])))
    return records.save(_NAME, {"fleet": fleet, "sizes": sizes, "goals": list(_goals(sizes))})


def _goals(sizes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each goal for growing lists together with the goal's measured values; see `benchmarks.goals`."""
    few, more, most = (sizes.get(str(images)) for images in (1_000, 100_000, 1_000_000))
    if more and most:
        for role in ("producer", "redis"):
            growth = most["peak_mib"][role] / more["peak_mib"][role]
            yield _finding(f"{role}, peak memory, 10⁶ images to 10⁵", growth)
    if few and most:
        growth = sum(most["cpu_us_per_image"].values()) / sum(few["cpu_us_per_image"].values())
        yield _finding("CPU per image, 10⁶ images to 10³", growth)


def _finding(about: str, growth: float) -> dict[str, Any]:
    found = dict.fromkeys(("median", "least", "most"), growth)
    return {"about": about, "found": found, "bound": 1.1, "at_least": False, "unit": " x", "digits": 2}


if __name__ == "__main__":
    main()
