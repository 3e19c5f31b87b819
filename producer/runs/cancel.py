"""Cancel a run: signal its producer, or drop its queued tasks if it has no producer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from producer.dispatch.run_record import drop_run
from producer.dispatch.signals import request_cancel
from producer.output import lock
from producer.output.folder import unwritable_error
from producer.output.lock import LockHolder
from producer.output.run_file import RunFile, State, resume_command
from producer.waiting import wait_until
from tasks.broker import client as broker_client
from tasks.errors import CommandError, StorageError
from tasks.storage.store import Store

#: Seconds to wait for a producer to end after it was told to cancel its run.
_CANCEL_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class CancelResult:
    """The state of a run after it was to be cancelled: cancelled, or complete. The message is for the user."""

    run_id: str
    state: State
    message: str


def cancel(store: Store, broker_url: str | None, end: Callable[[LockHolder], bool]) -> CancelResult:
    """Cancel a run.

    The run's producer cancels the run. If the run has no producer, its queued tasks are dropped.

    Args:
        store: the run's folder.
        broker_url: the URL of the run's Redis as given by the user. If None, the URL comes from the run's record.
        end: tells a producer with a local fleet to cancel its run. It returns whether this was possible.

    Raises:
        UsageError: the folder holds no usable run, or the broker's URL is required.
        CommandError: the run can't be cancelled.
    """
    record = RunFile.load_usable(store)
    producer = lock.current_holder(store)
    if producer is None and record.state is State.COMPLETE:
        return CancelResult(record.id, record.state, "The run is complete. There is nothing to cancel.")
    if producer is not None and producer.pid:
        # The producer may not have saved its broker in the record yet.
        record = replace(record, broker=producer.broker)
    url = broker_url or record.broker_url()
    if producer is not None and (url is None or (producer.pid and producer.broker is None)):
        if not end(producer):
            raise CommandError(
                "The run can't be cancelled from this machine",
                "its producer runs on another host, with its own local fleet",
                "Cancel the run on that host, or stop its producer with Ctrl-C.",
            )
    elif url is not None:
        _cancel_at_broker(url, record, store)
    _wait_for_producer(store)
    record = RunFile.load(store)
    if record.state is State.COMPLETE:
        return CancelResult(record.id, record.state, "The run was completed in the meantime.")
    if record.state is not State.CANCELLED:
        try:
            record.save(store, state=State.CANCELLED)
        except StorageError as error:
            raise unwritable_error(store, error) from error
    message = f"The run is cancelled. Finished images stay. To resume it, run: {resume_command(store)}"
    return CancelResult(record.id, State.CANCELLED, message)


def _cancel_at_broker(url: str, record: RunFile, store: Store) -> None:
    """Tell the producer to cancel the run. If the run has no producer, drop its queued tasks."""
    with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
        broker_client.check_server(server, url)
        # The producer may have ended in the meantime.
        if lock.current_holder(store) is None:
            drop_run(server, record.id)
        else:
            request_cancel(server, record.id)


def _wait_for_producer(store: Store) -> None:
    """Wait until a run has no producer.

    Raises:
        CommandError: the run's producer does not end in time.
    """
    if not wait_until(lambda: lock.current_holder(store) is None, _CANCEL_TIMEOUT_SECONDS, 0.1):
        raise CommandError(
            "The run has not ended",
            f"its producer was told to cancel it, but is still running {_CANCEL_TIMEOUT_SECONDS:.0f} s later",
            "Check the producer's output, or stop it with Ctrl-C.",
        )
