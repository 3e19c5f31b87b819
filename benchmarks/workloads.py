"""The workloads: the images to download, the ways to download them, and the check of the saved files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from benchmarks import checks, ways
from benchmarks.checks import Check, Resized
from benchmarks.pictures import LARGE, SMALL, ImageKind
from benchmarks.ways import Sweep, Way
from tasks.image_options import ResizeMode


@dataclass(frozen=True)
class Workload:
    """A list of images, and the ways to download it in turns.

    ``lists`` has the length of the list for some ways. All other ways get ``images`` images.
    """

    name: str
    about: str
    kind: ImageKind
    ways: Mapping[str, Way | Sweep]
    images: int = 20_000
    lists: Mapping[str, int] = field(default_factory=dict)
    tls: bool = False
    mode: ResizeMode | None = None
    check: Check = checks.check_unchanged
    #: Whether the workload only serves to detect a loss of speed.
    short: bool = False

    def length(self, way: str) -> int:
        """Return the number of images for a way."""
        return self.lists.get(way, self.images)

    def scaled(self, images: int) -> Self:
        """Return the workload with another number of images. All lists are scaled by the same factor."""
        lists = {way: max(1, length * images // self.images) for way, length in self.lists.items()}
        return replace(self, images=images, lists=lists)


IMAGEFLEET = "imagefleet"
#: Ratios compare imagefleet with this way.
BASE = "img2dataset"
PLAIN_CELERY = "plain Celery"

HTTP_SMALL = Workload(
    "http-15k",
    "http, 15 KB, not resized",
    SMALL,
    {
        IMAGEFLEET: ways.fleet(),
        BASE: ways.IMG2DATASET_SIZES,
        "threads": ways.threads(),
        "aria2": ways.aria2(),
        "curl": ways.curl(),
        PLAIN_CELERY: ways.PLAIN_CELERY_SIZES,
    },
)
HTTPS_SMALL = Workload(
    "https-15k",
    "https, 15 KB, not resized",
    SMALL,
    {IMAGEFLEET: ways.fleet(), BASE: ways.IMG2DATASET_SIZES, "curl": ways.curl()},
    # img2dataset gets a shorter list, because it is slow: it builds a TLS context for each image. With these lists,
    # both ways take a minute or more, and their startup has the same weight.
    images=80_000,
    lists={BASE: 6_000},
    tls=True,
)
RESIZE = Workload(
    "resize-160k",
    "http, 160 KB, 1024 x 768 to 341 x 256, JPEG 95",
    LARGE,
    {IMAGEFLEET: ways.fleet(), BASE: ways.IMG2DATASET_SIZES},
    mode=ResizeMode.KEEP_RATIO,
    check=Resized(341, 256),
)


def _resize_mode(mode: ResizeMode, check: Resized) -> Workload:
    """Return the workload of a mode, with a short list, and with the fastest size of img2dataset in `RESIZE`."""
    return Workload(
        f"resize-{mode.value.replace('_', '-')}",
        f"http, 160 KB, {mode.value}: 1024 x 768 to {check.width} x {check.height}, JPEG 95",
        LARGE,
        {IMAGEFLEET: ways.fleet(), BASE: ways.img2dataset(2, 32)},
        images=4_000,
        mode=mode,
        check=check,
    )


#: The other modes. In the mode ``no``, images are only encoded again. In the other modes, an eighth of the longer side
#: is cut off or added at each end.
RESIZE_MODES = (
    _resize_mode(ResizeMode.NO, Resized(1024, 768)),
    _resize_mode(ResizeMode.BORDER, Resized(256, 256, shown=(0, 1 / 8, 1, 7 / 8))),
    _resize_mode(ResizeMode.KEEP_RATIO_LARGEST, Resized(256, 192)),
    _resize_mode(ResizeMode.CENTER_CROP, Resized(256, 256, kept=(1 / 8, 0, 7 / 8, 1))),
)
HTTP_LARGE = Workload(
    "http-160k",
    "http, 160 KB, not resized",
    LARGE,
    {IMAGEFLEET: ways.fleet(), BASE: ways.IMG2DATASET_SIZES, "threads": ways.threads()},
)
#: The workload of `make bench-check`. Its results are not compared with those of longer lists, because a run's startup
#: has more weight in a short list.
SHORT = Workload(
    "short",
    "http, 15 KB, not resized: the short form",
    SMALL,
    {IMAGEFLEET: ways.fleet(), "threads": ways.threads(), BASE: ways.img2dataset(2, 32)},
    images=4_000,
    short=True,
)
TASK_EVENTS = Workload(
    "task-events",
    "http, 15 KB, with and without task events",
    SMALL,
    {
        "off": ways.fleet(),
        "off, Flower open": ways.fleet("--flower", env={"IMAGEFLEET_TASK_EVENTS": "off"}),
        "on, Flower open": ways.fleet("--flower", env={"IMAGEFLEET_TASK_EVENTS": "on"}),
    },
    images=10_000,
)
#: A run with its report and all metrics is compared with a run that has neither.
UNOBSERVED, OBSERVED = "neither", "report and metrics"
OBSERVATION = Workload(
    "observation",
    "http, 15 KB, with and without report and metrics",
    SMALL,
    {
        UNOBSERVED: ways.fleet(env={"IMAGEFLEET_REPORT": "off"}),
        OBSERVED: ways.fleet("--metrics-port", "9740", env={"IMAGEFLEET_METRICS_PORT": "9750"}),
    },
)
#: The other output formats are compared with this one.
FILES = "files"
OUTPUTS = Workload(
    "outputs",
    "http, 15 KB, by the output format",
    SMALL,
    {name: ways.fleet("--output-format", name) for name in (FILES, "webdataset", "parquet")},
    check=checks.check_output,
)
#: The default size of a fleet was chosen from these results.
SIZES = Workload(
    "sizes",
    "http, 15 KB, by the size of the fleet",
    SMALL,
    {
        "as it is": ways.fleet(),
        "8 slots": ways.fleet("--concurrency", "8"),
        "8 slots, 6 tasks reserved for each": ways.fleet("--concurrency", "8", env={"IMAGEFLEET_PREFETCH": "6"}),
        "32 slots": ways.fleet("--concurrency", "32"),
        "2 tasks reserved for each slot": ways.fleet(env={"IMAGEFLEET_PREFETCH": "2"}),
        "6 tasks reserved for each slot": ways.fleet(env={"IMAGEFLEET_PREFETCH": "6"}),
        "1 worker": ways.fleet("--workers", "1"),
        "4 workers": ways.fleet("--workers", "4"),
    },
    images=10_000,
)
#: The workloads, in the order in which they are measured and shown.
WORKLOADS = (HTTP_SMALL, HTTPS_SMALL, RESIZE, HTTP_LARGE, SHORT)
