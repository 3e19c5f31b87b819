"""Ways of downloading a list of images: imagefleet as users run it, its peers, and the plain baselines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.programs import ARIA2, CURL, IMG2DATASET, PEER, REDIS, Program
from tasks.image_options import ResizeMode

#: The number of the baseline's threads. aria2 and curl have the same number of concurrent downloads. A local fleet has
#: the same number of slots.
THREADS = 32


#: The requested size of resized images, in pixels.
IMAGE_SIZE = 256


@dataclass(frozen=True)
class Job:
    """A download: the list, the output folder and the options.

    ``mode`` is how to resize and encode images, with `IMAGE_SIZE`. If it is None, images are saved as downloaded.
    ``certificates`` is a PEM file of trusted certificates.
    """

    source: Path
    out: Path
    mode: ResizeMode | None
    certificates: Path


@dataclass(frozen=True)
class Way:
    """A way to download: a function that returns a job's command, and variables to add to this process's environment.

    Programs of imagefleet and of these benchmarks print a JSON object that has ``wall_seconds``. Other programs don't
    report a time, so their time is measured from start to exit.
    """

    command: Callable[[Job], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    program: Program | None = None


@dataclass(frozen=True)
class Sweep:
    """A way in several sizes. A benchmark measures the fastest size."""

    sizes: Mapping[str, Way]


def fleet(*options: str, env: Mapping[str, str] | None = None) -> Way:
    """Return a run with a local fleet. The run has the default options and the given options."""

    def command(job: Job) -> list[str]:
        resize = []
        if job.mode is ResizeMode.NO:
            resize = ["--encode-format", "jpg"]
        elif job.mode is not None:
            resize = ["--resize", job.mode.value, "--image-size", str(IMAGE_SIZE)]
        run = [sys.executable, "-m", "producer", "run", str(job.source), "--out", str(job.out), "--json"]
        return [*run, *resize, *options]

    return Way(command, env or {})


def threads() -> Way:
    """Return the baseline of plain threads, which uses the fleet's own function to fetch."""
    return Way(lambda job: [sys.executable, "-m", "benchmarks.threads", str(job.source), str(job.out), str(THREADS)])


def img2dataset(processes: int, threads: int) -> Way:
    """Return img2dataset with this many processes, and this many threads in each process.

    As in imagefleet, shards have 1,000 images.
    """

    def command(job: Job) -> list[str]:
        resize = (
            ["--resize_mode", job.mode.value, "--image_size", str(IMAGE_SIZE), "--encode_quality", "95"]
            if job.mode
            else ["--resize_mode", "no", "--disable_all_reencoding", "True"]
        )
        return [
            str(IMG2DATASET),
            *("--url_list", str(job.source), "--input_format", "txt"),
            *("--output_folder", str(job.out), "--output_format", "files", "--number_sample_per_shard", "1000"),
            *("--processes_count", str(processes), "--thread_count", str(threads), "--enable_wandb", "False"),
            *resize,
        ]

    return Way(command, {"NO_ALBUMENTATIONS_UPDATE": "1"}, PEER)


def plain_celery(pool: str, concurrency: int, chord: int) -> Way:
    """Return plain Celery with one worker of ``concurrency`` processes or threads, and chords of ``chord`` images."""

    def command(job: Job) -> list[str]:
        size = (pool, str(concurrency), str(chord))
        return [sys.executable, "-m", "benchmarks.plain_celery", str(job.source), str(job.out), *size]

    return Way(command, program=REDIS)


def aria2() -> Way:
    """Return aria2, which saves each response under the name in its URL."""

    def command(job: Job) -> list[str]:
        quiet = ("--quiet", "--console-log-level=error", "--summary-interval=0", "--download-result=hide")
        slots = ("-x1", "-j", str(THREADS), "--file-allocation=none")
        where = ("-d", str(job.out), "-i", str(job.source), f"--ca-certificate={job.certificates}")
        return [ARIA2.name, *quiet, *slots, *where]

    return Way(command, program=ARIA2)


def curl() -> Way:
    """Return curl, which saves each response under the name in its URL."""

    def command(job: Job) -> list[str]:
        # curl reads its URLs from a configuration file.
        config = job.source.with_suffix(".curl")
        config.write_text(
            "".join(f"url = {line}\nremote-name\n" for line in job.source.read_text(encoding="utf-8").splitlines()),
            encoding="utf-8",
        )
        parallel = ("--parallel", "--parallel-immediate", "--parallel-max", str(THREADS))
        where = ("--create-dirs", "--output-dir", str(job.out), "--cacert", str(job.certificates))
        return [CURL.name, "-s", "-f", *parallel, *where, "-K", str(config)]

    return Way(command, program=CURL)


#: img2dataset, by the number of processes and the number of threads in each process.
IMG2DATASET_SIZES = Sweep(
    {
        f"{processes} processes of {threads} threads": img2dataset(processes, threads)
        for processes in (2, 4)
        for threads in (16, 32, 64)
    }
)
#: Plain Celery, by the pool and the size of the chords.
PLAIN_CELERY_SIZES = Sweep(
    {
        "2 processes, one chord": plain_celery("prefork", 2, 1_000_000),
        "8 processes, chords of 1,000": plain_celery("prefork", 8, 1000),
        "8 processes, chords of 100": plain_celery("prefork", 8, 100),
        "16 processes, chords of 100": plain_celery("prefork", 16, 100),
        "32 threads, chords of 100": plain_celery("threads", 32, 100),
    }
)
