"""Cancel a run: through its producer, or by dropping its queued tasks if it has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from producer.dispatch.run_record import drop_run
from producer.dispatch.signals import request_cancel
from producer.output import lock
from producer.output.folder import unwritable_error
from producer.output.lock import LockHolder
from producer.output.run_file import RunFile, State, resume_command
from tasks.broker import client as broker_client
from tasks.errors import CommandError, StorageError
from tasks.storage.store import Store

#: Seconds within which a producer that is told to end its run has to have ended it.
_CANCEL_TIMEOUT_SECONDS = 60.0


def cancel(store: Store, broker_url: str | None, end: Callable[[LockHolder], bool]) -> str:
    """End a run: by its producer, if it has one, else by dropping what is queued of it; return what was done.

    Args:
        store: its folder.
        broker_url: its Redis, if it was given; else it is known by the run's record.
        end: asks a producer with a local fleet to end, and tells whether it could be asked.

    Raises:
        UsageError: the folder holds no run, or its broker has to be given.
        CommandError: it can't be ended.
    """
    record = RunFile.load(store)
    producer = lock.current_holder(store)
    if producer is None and record.state is State.COMPLETE:
        return "The run is complete; there is nothing to cancel."
    if producer is not None and producer.pid:
        # It may not have got as far as to say so in the record.
        record = replace(record, broker=producer.broker)
    url = broker_url or record.broker_url()
    if producer is not None and (url is None or (producer.pid and producer.broker is None)):
        if not end(producer):
            raise CommandError(
                "The run can't be cancelled from here",
                "its producer lives on another host, with a fleet of its own",
                "Cancel it there, or end that producer by Ctrl-C.",
            )
    elif url is not None:
        with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
            broker_client.check_server(server, url)
            # It may have ended meanwhile.
            if lock.current_holder(store) is None:
                drop_run(server, record.id)
            else:
                request_cancel(server, record.id)
    ends = time.monotonic() + _CANCEL_TIMEOUT_SECONDS
    while lock.current_holder(store) is not None:
        if time.monotonic() > ends:
            raise CommandError(
                "The run has not ended",
                f"its producer was told, and was still there {_CANCEL_TIMEOUT_SECONDS:.0f} s later",
                "Look at what it prints, or end it by Ctrl-C.",
            )
        time.sleep(0.1)
    record = RunFile.load(store)
    if record.state is State.COMPLETE:
        return "The run was completed meanwhile."
    if record.state is not State.CANCELLED:
        try:
            record.save(store, state=State.CANCELLED)
        except StorageError as error:
            raise unwritable_error(store, error) from error
    return f"The run is cancelled. What is done stays; go on by: {resume_command(store)}"
