"""A producer that dies before it has sent its last header: ``python -m tests.faults.broken_producer run …``."""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import Any

from producer import cli, dispatch
from tasks.celery import app

#: Messages that it makes before it dies; they are sent in smaller batches.
DIES_AT = 95
dispatch._BATCH = 10
_made = count(1)
_message = app.amqp.as_task_v2


def _dying(*arguments: Any, **options: Any) -> Any:
    if next(_made) == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    return _message(*arguments, **options)


if __name__ == "__main__":
    # The app's own property, and not its class: it hands out what stands in the object.
    app.amqp.__dict__["as_task_v2"] = _dying
    cli.main()
