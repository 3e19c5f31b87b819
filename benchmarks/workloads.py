"""The workloads: what is downloaded, by which ways, and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from benchmarks import checks, ways
from benchmarks.checks import Check, Resized
from benchmarks.pictures import LARGE, SMALL, Pictures
from benchmarks.ways import Swept, Way


@dataclass(frozen=True)
class Workload:
    """A list of pictures, and the ways that download it in turns.

    A way in ``lists`` gets a list of its own length, and all others get ``images``.
    """

    name: str
    about: str
    pictures: Pictures
    ways: Mapping[str, Way | Swept]
    images: int = 20_000
    lists: Mapping[str, int] = field(default_factory=dict)
    tls: bool = False
    smaller_side: int | None = None
    check: Check = checks.kept
    #: Whether it only tells if something fell behind.
    short: bool = False

    def length(self, way: str) -> int:
        """Return how many pictures a way downloads."""
        return self.lists.get(way, self.images)

    def scaled(self, images: int) -> Self:
        """Return the workload with another number of images, and all lists as much longer or shorter."""
        lists = {way: max(1, length * images // self.images) for way, length in self.lists.items()}
        return replace(self, images=images, lists=lists)


IMAGEFLEET = "imagefleet"
#: What ratios are of, and what they are to.
BASE = "img2dataset"
PLAIN_CELERY = "plain Celery"

HTTP_SMALL = Workload(
    "http-15k",
    "http, 15 KB, kept as they are",
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
    "https, 15 KB, kept as they are",
    SMALL,
    {IMAGEFLEET: ways.fleet(), BASE: ways.IMG2DATASET_SIZES, "curl": ways.curl()},
    # Each takes a minute or more, so the seconds that each needs to start weigh the same: img2dataset builds a TLS
    # context for each image.
    images=80_000,
    lists={BASE: 6_000},
    tls=True,
)
RESIZE = Workload(
    "resize-160k",
    "http, 160 KB, 1024 x 768 to 341 x 256, JPEG 95",
    LARGE,
    {IMAGEFLEET: ways.fleet(), BASE: ways.IMG2DATASET_SIZES},
    smaller_side=256,
    check=Resized(341, 256),
)
HTTP_LARGE = Workload(
    "http-160k",
    "http, 160 KB, kept as they are",
    LARGE,
    {IMAGEFLEET: ways.fleet(), BASE: ways.IMG2DATASET_SIZES, "threads": ways.threads()},
)
#: What `make bench-check` runs: a run's start weighs more in a short list, so it has numbers of its own.
SHORT = Workload(
    "short",
    "http, 15 KB, kept as they are: the short form",
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
#: What the default sizes of a fleet were chosen by.
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
#: In the order in which they are measured and shown.
WORKLOADS = (HTTP_SMALL, HTTPS_SMALL, RESIZE, HTTP_LARGE, SHORT)
