"""A producer dies before sending its last header task: ``python -m tests.faults.broken_producer run …``."""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import Any

from producer.cli import main
from producer.dispatch import publisher
from tasks.celery import app

#: The number of the message at which the producer dies. This producer sends messages in smaller batches than usual.
DIES_AT = 95
publisher._BATCH_MESSAGES = 10
_counter = count(1)
_create_message = app.amqp.as_task_v2


def _die_or_create_message(*arguments: Any, **options: Any) -> Any:
    if next(_counter) == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    return _create_message(*arguments, **options)


if __name__ == "__main__":
    # as_task_v2 is a cached property, so a value in the instance's __dict__ replaces it.
    app.amqp.__dict__["as_task_v2"] = _die_or_create_message
    main.main()
