"""A workload's ways in turns, A B A B …, so that a busy moment of the machine meets them all."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import pictures, processes, programs, web
from benchmarks.checks import Wrong
from benchmarks.messages import Ledger
from benchmarks.records import spread
from benchmarks.ways import Job, Swept, Way
from benchmarks.workloads import Workload

#: The part of a way's list that a sweep takes.
_SWEEP = 4
#: Files that a way writes for an image, at most: it, a text and what is known of it.
_FILES = 3


@dataclass(frozen=True)
class Count:
    """How many there were of something that each image should cause once, and the most that one image caused."""

    number: int
    most: int

    @classmethod
    def of(cls, found: Counter[str]) -> Count:
        """Return what was counted by image."""
        return cls(found.total(), max(found.values(), default=0))


@dataclass(frozen=True)
class Turn:
    """One way, once. Seconds are from its start to its exit, and by its own clock where it has one."""

    images: int
    seconds: float
    own_seconds: float
    #: Milliseconds an image, by role.
    cpu_ms: dict[str, float]
    peak_mib: float
    requests: Count
    #: Of images' tasks, where the way has a Redis of ours.
    messages: Count | None
    deliveries: Count | None


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for a whole benchmark.

    It goes at the end and not sooner: before it gives away an inode, an ext4 looks through those that were deleted in
    the last minutes, so the next turn would pay for the last one.
    """
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        yield Path(folder)


def measured(workload: Workload, repeat: int, folder: Path) -> dict[str, Any]:
    """Run a workload and return its result, with a row for each way.

    Every file of every turn is checked. Ways whose program is not there are left out.

    Raises:
        RuntimeError: a way failed, saved what is wrong, or there is no room for what they save.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    present = {name: way for name, way in workload.ways.items() if _present(name, way)}
    _check_room(workload, present, repeat, place)
    longest = max(workload.length(name) for name in present)
    gallery = pictures.hang(workload.pictures, longest, place / "pictures")
    with web.served(gallery.folder, place / "web", workload.tls) as site:
        course = _Course(workload, gallery, site, place)
        sweeps = {name: course.sweep(name, way) for name, way in present.items() if isinstance(way, Swept)}
        chosen = {name: _chosen(way, sweeps.get(name, {})) for name, way in present.items()}
        turns: dict[str, list[Turn]] = {name: [] for name in chosen}
        for _ in range(repeat):
            for name, way in chosen.items():
                turns[name].append(course.run(name, way, workload.length(name)))
    _empty(gallery.folder)
    return {
        "about": workload.about,
        "images": workload.images,
        "bytes_per_image": round(gallery.mean_size),
        "repeat": repeat,
        "versions": programs.versions(),
        "sweeps": sweeps,
        "ways": {name: _row(found) for name, found in turns.items()},
    }


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each way."""
    for name, row in rows.items():
        print(
            f"{name:20} {row['images_per_second']['median']:8.0f} images/s, start to exit "
            f"{row['of_command']['median']:8.0f}  {row['cpu_ms_per_image']} ms CPU an image"
        )


class _Course:
    """The pictures, the server and the folders that all turns share."""

    def __init__(self, workload: Workload, gallery: pictures.Gallery, site: web.Site, place: Path) -> None:
        self._workload, self._gallery, self._site, self._place = workload, gallery, site, place
        self._turns = 0

    def sweep(self, name: str, way: Swept) -> dict[str, float]:
        """Return the images a second of each size of a way, over a part of its list."""
        images = max(1, self._workload.length(name) // _SWEEP)
        return {size: images / self.run(f"{name}, {size}", one, images).seconds for size, one in way.sizes.items()}

    def run(self, name: str, way: Way, images: int) -> Turn:
        """Download so many pictures in one way, and check them."""
        self._turns += 1
        out = self._place / str(self._turns)
        source = self._place / f"{self._turns}.txt"
        source.write_text("".join(f"{self._site.url}/{number}.jpg\n" for number in range(images)), encoding="utf-8")
        job = Job(source, out, self._workload.smaller_side, self._site.certificates)
        env = {
            "IMAGEFLEET_ALLOW_NETWORKS": self._site.address,
            "IMAGEFLEET_CA_BUNDLE": str(self._site.certificates),
            "SSL_CERT_FILE": str(self._site.certificates),
            **way.env,
        }
        command = way.command(job)
        # What the last turn left for the disk is not for this one to wait for.
        os.sync()
        with Ledger() as ledger:
            taken = processes.measure(command, env, ledger.look)
            sent, delivered = (Count.of(found) for found in ledger.messages()) if ledger.seen else (None, None)
        try:
            self._workload.check(out, self._gallery, images)
        except Wrong as wrong:
            raise RuntimeError(f"{name}: {wrong}, in {out}") from wrong
        _empty(out)
        turn = Turn(
            images=images,
            seconds=taken.seconds,
            own_seconds=_own_clock(taken),
            cpu_ms={role: seconds / images * 1000 for role, seconds in taken.cpu.items()},
            peak_mib=taken.peak_memory / 2**20,
            requests=Count.of(self._site.asked()),
            messages=sent,
            deliveries=delivered,
        )
        print(f"{self._workload.name}: {name}: {images / turn.seconds:.0f} images/s", file=sys.stderr, flush=True)
        return turn


def _present(name: str, way: Way | Swept) -> bool:
    one = next(iter(way.sizes.values())) if isinstance(way, Swept) else way
    if one.program is None or one.program.path is not None:
        return True
    print(f"{name} is left out, it is not installed: {one.program.install}", file=sys.stderr)
    return False


def _chosen(way: Way | Swept, sweep: Mapping[str, float]) -> Way:
    return way.sizes[max(sweep, key=lambda size: sweep[size])] if isinstance(way, Swept) else way


def _check_room(workload: Workload, present: Mapping[str, Way | Swept], repeat: int, place: Path) -> None:
    """Make sure that the disk has room for the pictures, the largest turn, and the files of all turns.

    Raises:
        RuntimeError: it has not.
    """
    runs = {name: repeat + (len(way.sizes) / _SWEEP if isinstance(way, Swept) else 0) for name, way in present.items()}
    files = sum(workload.length(name) * _FILES * times for name, times in runs.items())
    longest = max(workload.length(name) for name in present)
    # A file of a few bytes takes 4 KB, and a turn's folders stay.
    needed = 2 * longest * (workload.pictures.bytes + 8192) + 50 * 2**20
    free, state = shutil.disk_usage(place).free, os.statvfs(place)
    if needed > free:
        raise RuntimeError(
            f"{workload.name} needs {needed / 2**30:.1f} GiB below {place.parent}, and {free / 2**30:.1f} GiB are "
            "free; TMPDIR names another place, --images a shorter list"
        )
    # Some file systems have as many as they need, and say 0.
    if state.f_files and files > state.f_favail:
        raise RuntimeError(f"{workload.name} makes {files:,.0f} files, and {state.f_favail:,} are free: set TMPDIR")


def _empty(folder: Path) -> None:
    """Give the room of a folder's files back; see `scratch` for why the files stay."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def _own_clock(taken: processes.Measured) -> float:
    try:
        return float(json.loads(taken.output)["wall_seconds"])
    except (ValueError, KeyError, TypeError):
        return taken.seconds


def _row(turns: list[Turn]) -> dict[str, Any]:
    roles = sorted({role for turn in turns for role in turn.cpu_ms})
    middle = {role: statistics.median([turn.cpu_ms.get(role, 0.0) for turn in turns]) for role in roles}
    return {
        "images": turns[0].images,
        "images_per_second": spread([turn.images / turn.own_seconds for turn in turns]),
        "of_command": spread([turn.images / turn.seconds for turn in turns]),
        "cpu_ms_per_image": {role: round(value, 3) for role, value in middle.items()},
        "peak_mib": spread([turn.peak_mib for turn in turns]),
        "turns": [asdict(turn) for turn in turns],
    }
