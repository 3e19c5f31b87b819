"""Ways of downloading one list of pictures from nginx, in turns: A B A B …, so that a busy moment meets them all."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness


@dataclass(frozen=True)
class Way:
    """How to download a list.

    ``command`` gives the argument list for a file of URLs and an output folder; the program prints one JSON object
    with ``wall_seconds``. ``env`` is what it is told besides this process's environment.
    """

    command: Callable[[Path, Path], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)


def fleet(source: Path, out: Path) -> list[str]:
    """Return the command of a run with a local fleet, as a user gives it."""
    return [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]


def measured(ways: Mapping[str, Way], images: int, repeat: int) -> dict[str, dict[str, Any]]:
    """Return a row for each way: images a second, CPU of each role in ms an image, and peak memory in MiB.

    Every file of every turn is compared with what was sent.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as name_of_scratch:
        scratch = Path(name_of_scratch)
        pictures = scratch / "pictures"
        size = harness.write_pictures(pictures, images)
        with harness.nginx(pictures, scratch / "nginx") as url:
            source = scratch / "urls.txt"
            source.write_text("".join(f"{url}/{index}.jpg\n" for index in range(images)))
            for turn in range(repeat):
                for name, way in ways.items():
                    out = scratch / "out"
                    env = {"IMAGEFLEET_ALLOW_NETWORKS": url.removeprefix("http://"), **way.env}
                    taken = harness.measure(way.command(source, out), env)
                    _check(out, pictures, images)
                    shutil.rmtree(out)
                    rate = images / json.loads(taken.output)["wall_seconds"]
                    runs[name].append(
                        {
                            "images_per_second": rate,
                            "cpu_ms": {role: seconds / images * 1000 for role, seconds in taken.cpu.items()},
                            "peak_mib": taken.peak_memory / 2**20,
                        }
                    )
                    print(f"turn {turn + 1}: {name}: {rate:.0f} images/s", file=sys.stderr)
    return {name: {**_row(found), "bytes_per_image": round(size / images)} for name, found in runs.items()}


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each way."""
    for name, row in rows.items():
        print(
            f"{name:20} {row['images_per_second']['median']:8.0f} images/s  {row['cpu_ms_per_image']} ms CPU an image"
        )


def _check(out: Path, pictures: Path, images: int) -> None:
    """Make sure that every picture arrived as it was sent."""
    for index in range(images):
        shard = index // 1000
        saved = out / f"{shard:05d}" / f"{shard:05d}{index % 1000:03d}.jpg"
        if saved.read_bytes() != (pictures / f"{index}.jpg").read_bytes():
            raise RuntimeError(f"{saved} is not what was sent")


def _row(found: list[dict[str, Any]]) -> dict[str, Any]:
    roles = sorted({role for run in found for role in run["cpu_ms"]})
    middle = {role: harness.spread([run["cpu_ms"].get(role, 0.0) for run in found])["median"] for role in roles}
    return {
        "images_per_second": harness.spread([run["images_per_second"] for run in found]),
        "cpu_ms_per_image": {role: round(value, 3) for role, value in middle.items()},
        "peak_mib": harness.spread([run["peak_mib"] for run in found]),
    }
