"""End the leftover tasks of a run before the run is removed. Otherwise they could save images into the new run."""

from __future__ import annotations

import time

from producer.dispatch.drain import GRACE_SECONDS, Drain
from producer.dispatch.run_record import drop_run
from producer.local_fleet.fleet import WORKER_GRACE_SECONDS
from producer.output.run_file import RunFile, State
from producer.waiting import wait_until
from tasks.broker import client as broker_client
from tasks.celery import use_broker
from tasks.redaction import redacted

_POLL_SECONDS = 0.1
#: After a producer's death, its local fleet ends its workers and removes its files within this many seconds.
_LOCAL_FLEET_SECONDS = WORKER_GRACE_SECONDS + 1.0


def end_tasks(record: RunFile, broker_url: str | None) -> None:
    """Drop the queued tasks of a run that has no producer, and wait until the run's downloads have ended.

    A local fleet ends together with its producer. If the producer was killed, its workers may run for some more
    seconds. The record does not always show whether and when the producer was killed. So wait for these seconds after
    each unfinished run. Even a complete run may have a task at a broker: a late duplicate of one of its tasks.

    Args:
        record: the run.
        broker_url: the URL of a broker, or None. It may be the URL of the run's broker, including the password.

    Raises:
        UsageError: the password of the run's broker is missing.
        CommandError: the run's broker is unreachable.
    """
    if record.state is State.REMOVING:
        return
    is_complete = record.state is State.COMPLETE
    if is_complete and time.time() - (record.finished_at or 0.0) > record.options.fetch.deadline + GRACE_SECONDS:
        return
    if record.broker is None:
        if not is_complete:
            time.sleep(_LOCAL_FLEET_SECONDS)
        return
    url = broker_url if broker_url is not None and redacted(broker_url) == record.broker else record.broker_url()
    assert url is not None
    with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
        broker_client.check_server(server, url)
        use_broker(url)
        # Without the run's record, workers drop its tasks. A current download may still save an image.
        drop_run(server, record.id)
        drain = Drain(record.id, server, record.options.fetch.deadline)

        def has_ended() -> bool:
            drain.ask()
            return drain.idle or drain.overdue

        wait_until(has_ended, float("inf"), _POLL_SECONDS)
