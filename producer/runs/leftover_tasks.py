"""End the tasks that an incomplete run has left at its broker, before the run is removed."""

from __future__ import annotations

from producer.dispatch.drain import Drain
from producer.dispatch.run_record import drop_run
from producer.output.run_file import RunFile, State
from producer.waiting import wait_until
from tasks.broker import client as broker_client
from tasks.celery import use_broker
from tasks.redaction import redacted

_POLL_SECONDS = 0.1


def end_tasks(record: RunFile, broker_url: str | None) -> None:
    """Drop the queued tasks of a run without a producer, and wait until its downloads have ended.

    A local fleet ends together with its producer, so its runs leave no tasks.

    Args:
        record: the run.
        broker_url: the URL of a broker, which may be that of the run with its password; or None.

    Raises:
        UsageError: the password of the run's broker is missing.
        CommandError: the run's broker is unreachable.
    """
    if record.broker is None or record.state in (State.COMPLETE, State.REMOVING):
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
