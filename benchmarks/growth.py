"""Memory and cost as the list grows: the same fleet over 10³, 10⁴, 10⁵ and 10⁶ small pictures from nginx.

``python -m benchmarks.growth`` measures 10³ to 10⁵; ``--images 1000000`` takes about twenty minutes, and 5 GB of disk
that are free again at the end. Sizes are merged into ``benchmarks/results/growth.json``, as long as they were measured
on one machine.

Before it gives away an inode, an ext4 looks through those that were deleted in the last minutes: delete nothing large
on the disk for five minutes before, or the first sizes pay for it. TMPDIR may name a folder on another disk.

The cost of an image is the CPU of a run without that of a run over one image, which is mostly Python starting: it would
be most of the cost of 10³ images. Both are taken by the same fleet, which has warmed up before.
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
from benchmarks.pictures import Pictures, hang
from benchmarks.watched import Size, Taken, WatchedFleet
from config import bounds
from producer.demo.pictures import picture
from producer.local import cores

_NAME = "growth"
#: Pictures that nginx has; the lists name them again and again, each time with another query.
_PICTURES = 300
_TINY = Pictures("64 x 32, 1 KB", partial(picture, width=64, height=32), 1_000)
_WARM_UP = 1000
_STARTS = 3


def main() -> None:
    """Measure each size, print a line, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=len(cores()))
    parser.add_argument("--concurrency", type=int, default=bounds.CONCURRENCY)
    arguments = parser.parse_args()
    size = Size(arguments.workers, arguments.concurrency)
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        place = Path(folder)
        with web.served(hang(_TINY, _PICTURES, place / "pictures").folder, place / "nginx", tls=False) as site:
            for images in sorted(arguments.images):
                row = _measured(images, size, place, site.url)
                path = _merge(images, row, size)
                print(f"{images:,} images: {json.dumps(row)}")
                print(f"written to {path}")


def _repeat(images: int) -> int:
    """Return how often a size is run: what is over in seconds varies more."""
    return 5 if images <= 1_000 else 3 if images <= 10_000 else 1


def _measured(images: int, size: Size, place: Path, url: str) -> dict[str, Any]:
    with WatchedFleet(size, place, url, _PICTURES) as fleet:
        fleet.run(_WARM_UP)
        starts = [fleet.run(1) for _ in range(_STARTS)]
        return _row(images, starts, [fleet.run(images) for _ in range(_repeat(images))])


def _row(images: int, starts: list[Taken], runs: list[Taken]) -> dict[str, Any]:
    roles = list(runs[0].cpu)
    start = {role: median(taken.cpu[role] for taken in starts) for role in roles}
    cpu = {role: median(taken.cpu[role] for taken in runs) for role in roles}
    return {
        "repeat": len(runs),
        "images_per_second": records.spread([images / taken.report["wall_seconds"] for taken in runs]),
        "cpu_us_per_image": {role: round((cpu[role] - start[role]) / (images - 1) * 1e6, 1) for role in roles},
        "start_cpu_ms": {role: round(start[role] * 1000, 1) for role in roles},
        "peak_mib": {role: round(max(taken.peak_memory[role] for taken in runs) / 2**20, 1) for role in roles},
        "redis_allocated_mib": round(max(taken.peak_allocated for taken in runs) / 2**20, 1),
        "redis_keys_left": max(taken.keys_left for taken in runs),
    }


def _merge(images: int, row: dict[str, Any], size: Size) -> Path:
    """Keep a row beside those of other sizes; rows of another machine or fleet go."""
    fleet = {"workers": size.workers, "concurrency": size.concurrency}
    path = records.FOLDER / f"{_NAME}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = old.get("machine") == records.machine() and old.get("fleet") == fleet
    rows = {**(old["sizes"] if same else {}), str(images): row}
    sizes = dict(sorted(rows.items(), key=lambda item: int(item[0])))
    return records.keep(_NAME, {"fleet": fleet, "sizes": sizes, "goals": list(_goals(sizes))})


def _goals(sizes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give what was found of the goals for a list that grows; see `benchmarks.goals`."""
    few, more, most = (sizes.get(str(images)) for images in (1_000, 100_000, 1_000_000))
    if more and most:
        for role in ("producer", "redis"):
            grown = most["peak_mib"][role] / more["peak_mib"][role]
            yield _finding(f"{role}, peak memory, 10⁶ images to 10⁵", grown)
    if few and most:
        grown = sum(most["cpu_us_per_image"].values()) / sum(few["cpu_us_per_image"].values())
        yield _finding("CPU an image, 10⁶ images to 10³", grown)


def _finding(about: str, grown: float) -> dict[str, Any]:
    found = dict.fromkeys(("median", "least", "most"), grown)
    return {"about": about, "found": found, "bound": 1.1, "at_least": False, "unit": " x", "digits": 2}


if __name__ == "__main__":
    main()
