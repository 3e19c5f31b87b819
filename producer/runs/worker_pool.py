"""The workers of a run: a local fleet, or the workers at a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config.locations import Location
from producer.dispatch.unfit_workers import UnfitWorker
from producer.dispatch.workers import survey_workers
from producer.local_fleet.fleet import Fleet
from tasks.broker import client as broker_client
from tasks.celery import use_broker


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """The workers of a run, and their broker.

    ``slots`` is the sum over all workers. ``startup_seconds`` is the time to start the local fleet, or to ask the
    workers at the broker. ``check`` raises an error if a local fleet has ended. ``begin_stop`` lets a local
    fleet end in the background, when the run needs it no more. ``unfit`` are workers that replied but can't process the
    run's tasks. ``warnings`` about the workers are shown to the user before the run.
    """

    broker_url: str
    workers: int
    slots: int
    startup_seconds: float
    check: Callable[[], None]
    begin_stop: Callable[[], None] = lambda: None
    local: bool = False
    unfit: Sequence[UnfitWorker] = ()
    warnings: Sequence[str] = ()


def local_pool(fleet: Fleet) -> WorkerPool:
    """Return the workers of a local fleet."""
    size = fleet.size
    slots = size.workers * size.concurrency
    startup, check, stop = fleet.startup_seconds, fleet.check, fleet.begin_stop
    return WorkerPool(fleet.broker_url, size.workers, slots, startup, check, stop, local=True)


def broker_pool(broker_url: str, out: Location, insecure: bool = False) -> WorkerPool:
    """Return the workers at a broker. The producer does not start these workers. There may be no workers yet.

    Args:
        broker_url: the broker's URL.
        out: the run's output folder. Workers must be able to write to this folder.
        insecure: whether the run skips the verification of server certificates. Workers must allow this.

    Raises:
        UsageError: of the workers that reply, none can save the run's images, or none allows ``insecure``.
        CommandError: the broker is unreachable, unusable, or not fit for a run.
    """
    started = time.monotonic()
    with broker_client.client(broker_url, retry=False) as server:
        broker_client.check_server(server, broker_url)
        broker_client.check_connections(server, broker_url, workers=0)
        use_broker(broker_url)
        with broker_client.translate_errors(broker_url):
            survey = survey_workers(out, insecure)
        broker_client.check_connections(server, broker_url, len(survey.fit))
    return WorkerPool(
        broker_url,
        len(survey.fit),
        sum(worker.slots for worker in survey.fit),
        time.monotonic() - started,
        lambda: None,
        unfit=survey.unfit,
        warnings=survey.warnings(),
    )
