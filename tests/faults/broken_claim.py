"""A worker that dies when it has claimed a chord's body and has not sent it."""

from __future__ import annotations

import os
from typing import Any

from celery.backends.redis import RedisBackend

from tasks.celery import app
from tests.faults import once

__all__ = ["app"]
_fire = RedisBackend.on_chord_part_return


def _dying(self: Any, *arguments: Any, **options: Any) -> Any:
    if once.strikes():
        os._exit(9)
    return _fire(self, *arguments, **options)


# `BatchingBackend.count` has made its claim when it calls this.
RedisBackend.on_chord_part_return = _dying
