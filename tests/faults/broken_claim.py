"""A worker that dies when it has claimed a chord's body and has not sent it.

The parts that it had just counted are not acknowledged, and come back. Whoever counts them again finds the chord
complete and its body claimed, for as long as Celery gives a worker to send it: over a minute.
"""

from __future__ import annotations

import os
from typing import Any

from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_send = app.amqp._retry_publish


def _dying(*arguments: Any, **options: Any) -> Any:
    if once.strikes():
        os._exit(9)
    return _send(*arguments, **options)


# What Celery's backend calls to send the body, once the claim is its own.
app.amqp._retry_publish = _dying
