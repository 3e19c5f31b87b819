"""The numbers of one run for Prometheus, as a collector of prometheus_client.

Nothing is counted here. The collector shows the last progress that the dispatcher has reported and, when the run is
complete, the totals of its manifests. The queues in Redis are looked up when the metrics are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import cast

import redis
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from producer.dispatch.progress import Progress
from producer.output.summary import Summary
from tasks.broker import client as broker_client
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE
from tasks.model import Reason, Status

_QUEUES = {"images": IMAGE_QUEUE, "shards": SHARD_QUEUE}


class RunMetrics(Collector):
    """The metrics of a command that works on one run."""

    def __init__(self) -> None:
        self._started = time.time()
        self._run_id = ""
        self._progress: Progress | None = None
        self._summary: Summary | None = None
        self._server: redis.Redis | None = None

    def start(self, run_id: str, broker_url: str) -> None:
        """Take the run and its broker."""
        self._run_id = run_id
        self._server = broker_client.client(broker_url, retry=False)

    def update(self, progress: Progress) -> None:
        """Show a progress from now on."""
        self._progress = progress

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return self._summary is not None

    def finish(self, summary: Summary) -> None:
        """Show the totals of the complete run from now on. The Redis of a local fleet ends with the run."""
        self._summary, self._server = summary, None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield InfoMetricFamily("imagefleet_run", "The run of this command.", {"run_id": self._run_id})
        yield _gauge("start_time_seconds", "Start of the command, in seconds since the epoch.", self._started)
        yield _gauge("complete", "1 if the run is complete.", self.is_finished)
        if self._summary is not None:
            yield from _totals(self._summary)
        elif self._progress is not None:
            yield from _progress(self._progress)
        if (server := self._server) is not None:
            yield from queue_metrics(_queue_lengths(server))


def _progress(progress: Progress) -> Iterator[Metric]:
    """Yield the metrics of a run in progress."""
    yield _images(progress.success, progress.reasons)
    yield _gauge("planned_images", "Images of the list read so far.", progress.planned)
    yield _gauge("plan_complete", "1 if the list has been read to its end.", progress.plan_complete)
    yield _gauge("saved_bytes", "Size of the saved images.", progress.bytes)
    yield _gauge("waiting_images", "Images that wait for busy hosts.", progress.waiting)
    yield _gauge("busy_hosts", "Hosts that images wait for.", progress.busy_hosts)
    yield _gauge("resting_hosts", "Hosts that get no requests now.", progress.fleet.resting_hosts)
    yield _gauge("shards_in_flight", "Shards sent and not yet collected.", progress.shards_in_flight)
    yield _gauge("repaired_images", "Tasks sent again because they were lost.", progress.repaired)
    yield _gauge("workers", "Workers that send heartbeats.", progress.fleet.workers)
    yield _gauge("lost_workers", "Workers that died and still hold tasks.", progress.fleet.lost_workers)


def _totals(summary: Summary) -> Iterator[Metric]:
    """Yield the metrics of a complete run."""
    yield _images(summary.success, summary.reasons)
    yield _gauge("planned_images", "Images of the list read so far.", summary.total)
    yield _gauge("plan_complete", "1 if the list has been read to its end.", 1)
    yield _gauge("saved_bytes", "Size of the saved images.", summary.bytes)


def _images(saved: int, reasons: Mapping[str, int]) -> Metric:
    """Return the number of finished images by status and reason. The names are those of the manifests."""
    about = "Finished images of the run, with those of earlier commands."
    family = GaugeMetricFamily("imagefleet_run_images", about, labels=("status", "reason"))
    family.add_metric([Status.SUCCESS, ""], saved)
    for reason in Reason:
        family.add_metric([reason.status, reason], reasons.get(reason, 0))
    return family


def queue_metrics(lengths: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the lengths of the queues, and whether Redis answers. Without an answer, there are no lengths."""
    yield GaugeMetricFamily("imagefleet_redis_up", "1 if Redis answers the producer.", bool(lengths))
    about = "Tasks in the queues of all runs at this broker. A worker has taken further tasks."
    family = GaugeMetricFamily("imagefleet_queued_tasks", about, labels=("queue",))
    for name, length in lengths.items():
        family.add_metric([name], length)
    yield family


def _queue_lengths(server: redis.Redis) -> dict[str, int]:
    """Return the number of tasks in each queue; empty if Redis does not answer."""
    try:
        with server.pipeline(transaction=False) as pipe:
            for queue in _QUEUES.values():
                pipe.llen(queue)
            return dict(zip(_QUEUES, cast("list[int]", pipe.execute()), strict=True))
    except redis.RedisError:
        return {}


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"imagefleet_run_{name}", about, value)
