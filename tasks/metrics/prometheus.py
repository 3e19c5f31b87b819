"""Count a worker's images and shards with prometheus_client.

Counting an image takes no message or round trip. Outcomes are counted many at a time, and before the metrics are read,
because this takes a quarter of the CPU time. The state of the worker is looked up only when the metrics are read. All
series exist from the start, because Prometheus can't compute a rate from the first value of a series.
"""

from __future__ import annotations

import threading
from collections import Counter as Multiset
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    Summary,
    disable_created_metrics,
)

from config import VERSION
from tasks.metrics.counters import Deferral, WorkerMetrics, WorkerState
from tasks.model import Outcome, Reason, Status
from tasks.phases import PHASE_NAMES

#: The upper bounds of the histogram of durations, in seconds. The longest deadline of an image is 150 s.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
#: The number of Outcomes that are counted at a time.
_BATCH = 500


def create_registry() -> CollectorRegistry:
    """Return a registry with the memory, the CPU time and the open files of this process, and with its version."""
    # A second series for each counter, with the time of its creation, is of no use here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Info("imagefleet_build", "The version of imagefleet.", registry=registry).info({"version": VERSION})
    return registry


class PrometheusMetrics(WorkerMetrics):
    """The counters of a worker with metrics. Call `update` before you read the registry."""

    def __init__(self, registry: CollectorRegistry, state: WorkerState) -> None:
        #: Outcomes that are not in the registry yet. Threads append to it without a lock.
        self._waiting: deque[Outcome] = deque()
        self._lock = threading.Lock()
        images = Counter(
            "imagefleet_images",
            "Images with an Outcome. A task that ran twice counts twice.",
            ("status", "reason"),
            registry=registry,
        )
        self._images = {reason: images.labels(reason.status, reason) for reason in Reason}
        self._saved = images.labels(Status.SUCCESS, "")
        seconds = Histogram(
            "imagefleet_image_duration_seconds",
            "Time from the start of an image in a slot to its Outcome, with all attempts and waits in slots.",
            ("status",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._seconds = {status: seconds.labels(status) for status in Status}
        phases = Counter(
            "imagefleet_phase_seconds",
            "Time of images in each phase of their download, and before it in the queue.",
            ("phase",),
            registry=registry,
        )
        self._phases = [phases.labels(phase) for phase in PHASE_NAMES]
        self._bytes = Counter("imagefleet_saved_bytes", "Size of the saved images.", registry=registry)
        self._attempts = Counter("imagefleet_attempts", "Attempts to download an image.", registry=registry)
        self._retries = Counter("imagefleet_retries", "Attempts after the first one of an image.", registry=registry)
        deferrals = Counter(
            "imagefleet_deferred_images", "Tasks put off without an Outcome.", ("why",), registry=registry
        )
        self._deferrals = {why: deferrals.labels(why) for why in Deferral}
        self._redelivered = Counter(
            "imagefleet_redelivered_images",
            "Tasks of images that another worker has taken before, for example because it died.",
            registry=registry,
        )
        shards = Counter("imagefleet_shards", "Shards collected by this worker.", ("result",), registry=registry)
        self._collected, self._uncollected = shards.labels("collected"), shards.labels("failed")
        self._collect_seconds = Summary(
            "imagefleet_collect_duration_seconds", "Time to collect a shard.", registry=registry
        )
        self._slots = Gauge("imagefleet_slots", "Download slots.", registry=registry)
        busy = Gauge("imagefleet_busy_slots", "Download slots that run a task.", registry=registry)
        busy.set_function(state.busy_slots)
        held = Gauge("imagefleet_held_images", "Tasks that wait for the address of their host.", registry=registry)
        held.set_function(state.held_images)
        unfit = Gauge("imagefleet_unfit", "1 while the worker can't reach servers or save images.", registry=registry)
        unfit.set_function(state.is_unfit)

    def count_image(self, outcome: Outcome) -> None:
        """Count an image by its status and reason, its size, its attempts, and its duration by phase."""
        self._waiting.append(outcome)
        if len(self._waiting) >= _BATCH:
            self.update()

    def update(self) -> None:
        """Bring the registry up to date with all images that were counted."""
        with self._lock:
            outcomes = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for reason, number in Multiset(outcome.reason for outcome in outcomes).items():
                (self._saved if reason is None else self._images[reason]).inc(number)
            for outcome in outcomes:
                self._seconds[outcome.status].observe(outcome.fetch_seconds)
            self._attempts.inc(sum(outcome.attempts for outcome in outcomes))
            # An image that was refused without a request has no attempt.
            self._retries.inc(sum(outcome.attempts - 1 for outcome in outcomes if outcome.attempts))
            self._bytes.inc(sum(outcome.bytes or 0 for outcome in outcomes))
            phases = [outcome.phases for outcome in outcomes if outcome.phases]
            for counter, microseconds in zip(self._phases, zip(*phases, strict=True), strict=False):
                counter.inc(sum(microseconds) / 1e6)

    def count_deferral(self, why: Deferral) -> None:
        """Count a task that ended without an Outcome, to run again later."""
        self._deferrals[why].inc()

    def count_redelivery(self) -> None:
        """Count a task that another worker has taken before."""
        self._redelivered.inc()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Count a shard that is collected in the block, and its duration."""
        started = monotonic()
        try:
            yield
        except BaseException:
            self._uncollected.inc()
            raise
        self._collected.inc()
        self._collect_seconds.observe(monotonic() - started)

    def set_slots(self, slots: int) -> None:
        """Set the number of download slots."""
        self._slots.set(slots)
