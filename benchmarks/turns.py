"""Run a workload's ways in turns (A B A B …), so that a busy moment of the machine affects all ways."""

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
from benchmarks.checks import CheckError
from benchmarks.messages import MessageCounter
from benchmarks.records import spread
from benchmarks.ways import Job, Sweep, Way
from benchmarks.workloads import Workload

#: A sweep downloads only the first 1/`_SWEEP` of a way's list.
_SWEEP = 4
#: Largest number of files per image: the image, a text and its metadata.
_FILES = 3


@dataclass(frozen=True)
class Count:
    """The count of an event that is expected once per image: the total number, and the highest number for one image."""

    number: int
    most: int

    @classmethod
    def from_counter(cls, counter: Counter[str]) -> Count:
        """Sum up a counter of events by image."""
        return cls(counter.total(), max(counter.values(), default=0))


@dataclass(frozen=True)
class Turn:
    """One run of one way.

    ``seconds`` is the time from the start of the way's process to its exit. ``own_seconds`` is the time that the way
    itself reports. If the way reports no time, ``own_seconds`` equals ``seconds``.
    """

    images: int
    seconds: float
    own_seconds: float
    #: Milliseconds per image, by role.
    cpu_ms: dict[str, float]
    peak_mib: float
    requests: Count
    #: Messages of image tasks; None if the way has no Redis with an append-only file.
    messages: Count | None
    deliveries: Count | None


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary folder for a whole benchmark.

    It is deleted only at the end. Before an ext4 without a journal allocates an inode, it searches the inodes deleted
    in the last minutes. So an earlier deletion would slow down the next turn.
    """
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        yield Path(folder)


def measure(workload: Workload, repeat: int, folder: Path) -> dict[str, Any]:
    """Run a workload and return its result, with a row for each way.

    Checks every file of every turn. Skips ways with a missing program.

    Raises:
        RuntimeError: a way failed or saved wrong files, or the disk has too little space.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    installed = {name: way for name, way in workload.ways.items() if _is_installed(name, way)}
    _check_space(workload, installed, repeat, place)
    longest = max(workload.length(name) for name in installed)
    gallery = pictures.create_gallery(workload.kind, longest, place / "pictures")
    with web.serve(gallery.folder, place / "web", workload.tls) as site:
        runner = _TurnRunner(workload, gallery, site, place)
        sweeps = {name: runner.sweep(name, way) for name, way in installed.items() if isinstance(way, Sweep)}
        fastest = {name: _fastest(way, sweeps.get(name, {})) for name, way in installed.items()}
        turns: dict[str, list[Turn]] = {name: [] for name in fastest}
        for _ in range(repeat):
            for name, way in fastest.items():
                turns[name].append(runner.run(name, way, workload.length(name)))
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
            f"{row['of_command']['median']:8.0f}  {row['cpu_ms_per_image']} ms CPU per image"
        )


class _TurnRunner:
    """Runs turns with a shared gallery, web server and folder."""

    def __init__(self, workload: Workload, gallery: pictures.Gallery, site: web.Site, place: Path) -> None:
        self._workload, self._gallery, self._site, self._place = workload, gallery, site, place
        self._turns = 0

    def sweep(self, name: str, way: Sweep) -> dict[str, float]:
        """Return the images per second for each size of a way.

        Only a part of the way's list is downloaded for this.
        """
        images = max(1, self._workload.length(name) // _SWEEP)
        return {size: images / self.run(f"{name}, {size}", one, images).seconds for size, one in way.sizes.items()}

    def run(self, name: str, way: Way, images: int) -> Turn:
        """Download the first ``images`` images with one way, and check them."""
        self._turns += 1
        out = self._place / str(self._turns)
        source = self._place / f"{self._turns}.txt"
        source.write_text("".join(f"{self._site.url}/{number}.jpg\n" for number in range(images)), encoding="utf-8")
        job = Job(source, out, self._workload.mode, self._site.certificates)
        env = {
            "IMAGEFLEET_ALLOW_NETWORKS": self._site.address,
            "IMAGEFLEET_CA_BUNDLE": str(self._site.certificates),
            "SSL_CERT_FILE": str(self._site.certificates),
            **way.env,
        }
        command = way.command(job)
        # Write everything to disk first, so that this turn does not wait for the writes of the previous turn.
        os.sync()
        with MessageCounter() as counter:
            usage = processes.measure(command, env, counter.inspect)
            counts = counter.count() if counter.has_files else ()
            sent, delivered = map(Count.from_counter, counts) if counts else (None, None)
        try:
            self._workload.check(out, self._gallery, images)
        except CheckError as error:
            raise RuntimeError(f"{name}: {error}, in {out}") from error
        _empty(out)
        turn = Turn(
            images=images,
            seconds=usage.seconds,
            own_seconds=_own_seconds(usage),
            cpu_ms={role: seconds / images * 1000 for role, seconds in usage.cpu.items()},
            peak_mib=usage.peak_memory / 2**20,
            requests=Count.from_counter(self._site.new_requests()),
            messages=sent,
            deliveries=delivered,
        )
        print(f"{self._workload.name}: {name}: {images / turn.seconds:.0f} images/s", file=sys.stderr, flush=True)
        return turn


def _is_installed(name: str, way: Way | Sweep) -> bool:
    one = next(iter(way.sizes.values())) if isinstance(way, Sweep) else way
    if one.program is None or one.program.path is not None:
        return True
    print(f"skipping {name}, because it is not installed: {one.program.install}", file=sys.stderr)
    return False


def _fastest(way: Way | Sweep, rates: Mapping[str, float]) -> Way:
    return way.sizes[max(rates, key=lambda size: rates[size])] if isinstance(way, Sweep) else way


def _check_space(workload: Workload, ways: Mapping[str, Way | Sweep], repeat: int, place: Path) -> None:
    """Check that the disk has space for the images, the largest turn, and the files of all turns.

    Raises:
        RuntimeError: the disk has too little space or too few inodes.
    """
    runs = {name: repeat + (len(way.sizes) / _SWEEP if isinstance(way, Sweep) else 0) for name, way in ways.items()}
    files = sum(workload.length(name) * _FILES * times for name, times in runs.items())
    longest = max(workload.length(name) for name in ways)
    # The additional bytes per image are for two things: even the smallest file takes 4 KB on disk, and folders remain
    # after a turn.
    needed = 2 * longest * (workload.kind.bytes + 8192) + 50 * 2**20
    free, state = shutil.disk_usage(place).free, os.statvfs(place)
    if needed > free:
        raise RuntimeError(
            f"{workload.name} needs {needed / 2**30:.1f} GiB below {place.parent}, but only {free / 2**30:.1f} GiB are "
            "free; set TMPDIR to a folder on another disk, or use --images for a shorter list"
        )
    # File systems without a limit on inodes report 0.
    if state.f_files and files > state.f_favail:
        raise RuntimeError(
            f"{workload.name} creates {files:,.0f} files, but only {state.f_favail:,} inodes are free; set TMPDIR to a "
            "folder on another disk"
        )


def _empty(folder: Path) -> None:
    """Truncate a folder's files to free their disk space. `scratch` says why they are not deleted."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def _own_seconds(usage: processes.Measured) -> float:
    try:
        return float(json.loads(usage.output)["wall_seconds"])
    except (ValueError, KeyError, TypeError):
        return usage.seconds


def _row(turns: list[Turn]) -> dict[str, Any]:
    roles = sorted({role for turn in turns for role in turn.cpu_ms})
    cpu_ms = {role: statistics.median([turn.cpu_ms.get(role, 0.0) for turn in turns]) for role in roles}
    return {
        "images": turns[0].images,
        "images_per_second": spread([turn.images / turn.own_seconds for turn in turns]),
        "of_command": spread([turn.images / turn.seconds for turn in turns]),
        "cpu_ms_per_image": {role: round(value, 3) for role, value in cpu_ms.items()},
        "peak_mib": spread([turn.peak_mib for turn in turns]),
        "turns": [asdict(turn) for turn in turns],
    }
