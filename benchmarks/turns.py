"""Ways of downloading one list of pictures from nginx, in turns: A B A B …, so that a busy moment meets them all."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness


@dataclass(frozen=True)
class Way:
    """How to download a list.

    ``command`` gives the argument list for a file of URLs and an output folder. A program of ours prints one JSON
    object with ``wall_seconds``; others are timed from their start to their exit. ``env`` is what it is told besides
    this process's environment.
    """

    command: Callable[[Path, Path], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)


#: Threads of the baseline, and downloads at a time of the peers that take a number.
THREADS = 32


def threads(source: Path, out: Path) -> list[str]:
    """Return the command of the threads baseline."""
    return [sys.executable, "-m", "benchmarks.threads", str(source), str(out), str(THREADS)]


def fleet(source: Path, out: Path) -> list[str]:
    """Return the command of a run with a local fleet, as a user gives it."""
    return [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for a whole benchmark.

    It goes at the end and not sooner: before it gives away an inode, an ext4 looks through those that were deleted in
    the last minutes, so the next turn would pay for the last one.
    """
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        yield Path(folder)


def measured(ways: Mapping[str, Way], images: int, repeat: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Return a row for each way: images a second, CPU of each role in ms an image, and peak memory in MiB.

    ``images_per_second`` is by the program's own clock where it has one, ``of_command`` from its start to its exit.
    Every file of every turn is compared with what was sent.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    place = Path(tempfile.mkdtemp(dir=folder))
    pictures = place / "pictures"
    size = harness.write_pictures(pictures, images)
    sent = _digests(pictures)
    with harness.nginx(pictures, place / "nginx") as url:
        source = place / "urls.txt"
        source.write_text("".join(f"{url}/{index}.jpg\n" for index in range(images)))
        for turn in range(repeat):
            for number, (name, way) in enumerate(ways.items()):
                out = place / f"{turn}-{number}"
                env = {"IMAGEFLEET_ALLOW_NETWORKS": url.removeprefix("http://"), **way.env}
                taken = harness.measure(way.command(source, out), env)
                if _digests(out) != sent:
                    raise RuntimeError(f"{name}: what is in {out} is not what was sent")
                rate = images / _own_clock(taken)
                runs[name].append(
                    {
                        "images_per_second": rate,
                        "of_command": images / taken.seconds,
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
            f"{name:20} {row['images_per_second']['median']:8.0f} images/s, start to exit "
            f"{row['of_command']['median']:8.0f}  {row['cpu_ms_per_image']} ms CPU an image"
        )


def _digests(folder: Path) -> Counter[bytes]:
    """Return how often each picture is in a folder and those below it, by its SHA-256."""
    return Counter(hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*.jpg"))


def _own_clock(taken: harness.Measured) -> float:
    try:
        return float(json.loads(taken.output)["wall_seconds"])
    except (ValueError, KeyError, TypeError):
        return taken.seconds


def _row(found: list[dict[str, Any]]) -> dict[str, Any]:
    roles = sorted({role for run in found for role in run["cpu_ms"]})
    middle = {role: harness.spread([run["cpu_ms"].get(role, 0.0) for run in found])["median"] for role in roles}
    return {
        "images_per_second": harness.spread([run["images_per_second"] for run in found]),
        "of_command": harness.spread([run["of_command"] for run in found]),
        "cpu_ms_per_image": {role: round(value, 3) for role, value in middle.items()},
        "peak_mib": harness.spread([run["peak_mib"] for run in found]),
    }
