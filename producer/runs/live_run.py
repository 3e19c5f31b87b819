"""Find the Redis of a run in progress, so that another command can look into its fleet."""

from __future__ import annotations

import os
import shlex
import socket
from dataclasses import replace
from urllib.parse import urlsplit

from producer.output import lock
from producer.output.lock import LockHolder
from producer.output.run_file import RunFile, State, resume_command
from producer.waiting import wait_until
from tasks.errors import CommandError, UsageError
from tasks.storage.store import Store

#: Seconds to wait for the local fleet of a run to become ready.
_STARTUP_SECONDS = 10.0


def find_live_broker(store: Store, broker_url: str | None) -> str:
    """Return the URL of the Redis of a run, while its producer works.

    Args:
        store: the run's folder.
        broker_url: the URL of the run's broker as given by the user. If None, the URL comes from the run's record. A
            run with a local fleet ignores this argument.

    Raises:
        UsageError: the folder holds no usable run, the run is over, or the broker's URL is required.
        CommandError: the run's local fleet can't be reached from here.
    """
    record = RunFile.load_usable(store)
    producer = lock.current_holder(store)
    if producer is None:
        raise _over_error(record, store)
    return broker_of_producer(producer, record, store, broker_url)


def broker_of_producer(producer: LockHolder, record: RunFile, store: Store, broker_url: str | None) -> str:
    """Return the URL of the Redis of a run with a live producer.

    Args:
        producer: the holder of the folder's lock.
        record: the run's record.
        store: the run's folder.
        broker_url: as in `find_live_broker`.

    Raises:
        UsageError: the broker's URL is required.
        CommandError: the run's local fleet can't be reached from here.
    """
    if producer.broker is None and producer.pid:
        return _local_fleet_url(producer, store)
    # The producer may not have saved its broker in the record yet.
    url = broker_url or replace(record, broker=producer.broker or record.broker).broker_url()
    if url is None:
        raise CommandError(
            f"The Redis of the run in {store.location} is unknown",
            "its producer has not described itself yet",
            "Try again in a moment, or add --broker.",
        )
    return url


def _over_error(record: RunFile, store: Store) -> UsageError:
    """Return the error for a run without a producer."""
    if record.state is State.COMPLETE:
        how, todo = "it is complete", f"See its numbers with `producer status {shlex.quote(store.location)}`."
    else:
        how = "its producer was killed" if record.state is State.RUNNING else f"its state is {record.state}"
        todo = f"Resume it with `{resume_command(store)}`."
    if record.broker is not None:
        todo += f" To see the fleet at the broker, use --broker {shlex.quote(record.broker)} without a folder."
    return UsageError(f"The run in {store.location} is over", f"{how}, and no producer works on it", todo)


def _local_fleet_url(producer: LockHolder, store: Store) -> str:
    if producer.host != socket.gethostname():
        raise CommandError(
            "The run's fleet can't be reached from this machine",
            f"it is a local fleet on the host {producer.host}",
            "Run the command on that host.",
        )
    latest = producer

    def is_ready() -> bool:
        nonlocal latest
        latest = lock.current_holder(store) or latest
        return latest.fleet is not None

    if producer.fleet is None and not wait_until(is_ready, _STARTUP_SECONDS, 0.1):
        raise CommandError(
            "The run's fleet is not ready",
            f"the producer is {producer.text}, and its local fleet has not started yet",
            "Try again in a moment.",
        )
    assert latest.fleet is not None
    path = urlsplit(latest.fleet).path
    if not os.access(path, os.R_OK | os.W_OK):
        raise CommandError(
            "The run's fleet can't be reached",
            f"the socket of its Redis, {path}, does not exist here or belongs to another user",
            f"Run the command on the host {producer.host}, as the user who started the run.",
        )
    return latest.fleet
