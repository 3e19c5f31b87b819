"""A worker dies after it has claimed a chord's body and before it sends the body.

The worker has not acknowledged the parts that it counted last, so Redis redelivers their tasks. The next worker that
counts these parts finds that the chord is complete and the body is claimed. The claim lasts over a minute, because
Celery allows this time for sending the body.
"""

from __future__ import annotations

import os
from typing import Any

from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_send = app.amqp._retry_publish


def _die_or_send(*arguments: Any, **options: Any) -> Any:
    if once.is_first():
        os._exit(9)
    return _send(*arguments, **options)


# Celery's backend calls this to send the body after claiming it.
app.amqp._retry_publish = _die_or_send
