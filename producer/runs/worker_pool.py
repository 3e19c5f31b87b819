"""The workers of a run: a local fleet, or the workers at a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from producer.dispatch.unfit_workers import UnfitWorker
from producer.dispatch.workers import survey_workers
from producer.local_fleet.fleet import Fleet
from tasks.broker import client as broker_client
from tasks.celery import use_broker


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """Who does the work of a run: the broker, its workers and all their slots together, and a check of their health.

    ``startup_seconds`` is what it took to get them: to start a local fleet, or to ask a broker's workers. ``local`` is
    whether they are a local fleet. ``unfit`` are workers at the broker that can't do the run's work, and ``warnings``
    is what a person should know of the workers before the run.
    """

    broker_url: str
    workers: int
    slots: int
    startup_seconds: float
    check: Callable[[], None]
    local: bool = False
    unfit: Sequence[UnfitWorker] = ()
    warnings: Sequence[str] = ()


def local_pool(fleet: Fleet) -> WorkerPool:
    """Return a local fleet as a run's crew."""
    size = fleet.size
    slots = size.workers * size.concurrency
    return WorkerPool(fleet.broker_url, size.workers, slots, fleet.startup_seconds, fleet.check, local=True)


def broker_pool(broker_url: str, out: Path, insecure: bool = False) -> WorkerPool:
    """Return the workers at a broker that others keep as a run's crew; there may be none yet.

    Args:
        broker_url: the broker's.
        out: the run's output folder, which they have to be able to write.
        insecure: whether the run is to do without the verification of servers, which they have to allow.

    Raises:
        UsageError: workers are there, and none of them can save the run's images, or none may do what it asks for.
        CommandError: the broker can't be reached or used now, or is not fit to hold a run.
    """
    started = time.monotonic()
    with broker_client.client(broker_url, retry=False) as server:
        broker_client.check_server(server, broker_url)
        broker_client.check_connections(server, broker_url, workers=0)
        use_broker(broker_url)
        with broker_client.translate_errors(broker_url):
            pool = survey_workers(out, insecure)
        broker_client.check_connections(server, broker_url, len(pool.fit))
    return WorkerPool(
        broker_url,
        len(pool.fit),
        sum(worker.slots for worker in pool.fit),
        time.monotonic() - started,
        lambda: None,
        unfit=pool.unfit,
        warnings=pool.warnings(),
    )
