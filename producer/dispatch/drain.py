"""Drain a run that was told to end early: workers drop its queued tasks and finish its current downloads.

The options in Redis mark the run as draining. A worker that takes a task of the run then drops the task. Workers cache
these options for a few seconds. So a control command makes the workers read the options again at once. Each worker
replies with two numbers: how many of the run's images and how many of its shards are in the worker's slots.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import redis

from tasks.broker import liveness
from tasks.celery import DRAIN, app

#: Seconds between two control commands to the workers, and seconds to wait for the workers' replies.
_ASK_INTERVAL_SECONDS = 0.5
_REPLY_SECONDS = 1.0
#: Seconds to wait for a worker that sends heartbeats but no reply.
_SILENT_SECONDS = 10.0
#: Seconds to wait in addition to the longest time that an image may take. The run may be told to end just after an
#: image has started, and the manifest of the image's shard is written even later.
GRACE_SECONDS = 5.0
#: The drain is done after the workers have reported no work this many times in a row. One report is not enough, because
#: a task can be between two slots, or a manifest can be about to be written.
_IDLE_REPLIES = 2


@dataclass(slots=True)
class Drain:
    """The state of a run's drain; times are in seconds of the monotonic clock."""

    run_id: str
    #: A client with `decode_responses`.
    server: redis.Redis
    #: The longest time that one image may take, in seconds.
    deadline: float
    _since: float = field(default_factory=time.monotonic)
    _asked_at: float = 0.0
    #: The number of images and shards in each worker's slots, by the worker's name.
    _busy: dict[str, tuple[int, int]] = field(default_factory=dict)
    _idle_replies: int = 0

    @property
    def images(self) -> int:
        """The number of images being downloaded, from the last replies."""
        return sum(images for images, _ in self._busy.values())

    @property
    def idle(self) -> bool:
        """Whether no worker is working on the run."""
        return self._idle_replies >= _IDLE_REPLIES

    @property
    def overdue(self) -> bool:
        """Whether the drain has taken longer than allowed."""
        return time.monotonic() - self._since > self.deadline + GRACE_SECONDS

    def ask(self) -> None:
        """Make the workers drop queued tasks, and read the numbers of their current images and shards.

        This is done at most twice a second.

        Raises:
            redis.RedisError, OperationalError: Redis is unreachable.
        """
        if time.monotonic() - self._asked_at < _ASK_INTERVAL_SECONDS:
            return
        living = [name for name, lives in liveness.worker_liveness(self.server).items() if lives]
        # Without a limit, each command would always wait the full time for further replies.
        replies = app.control.broadcast(
            DRAIN, {"run_id": self.run_id}, reply=True, timeout=_REPLY_SECONDS, limit=max(len(living), 1)
        )
        received = {name: _parse_reply(said) for reply in replies or [] for name, said in reply.items()}
        self._asked_at = time.monotonic()
        # A worker without a reply still has the work it last reported, unless it has died.
        nodes = {worker.node for worker in map(liveness.WorkerId.parse, living) if worker is not None}
        self._busy = {
            name: work for name, work in {**self._busy, **received}.items() if name in nodes | received.keys()
        }
        all_replied = len(received) >= len(living) or self._asked_at - self._since > _SILENT_SECONDS
        working = any(images or shards for images, shards in self._busy.values())
        self._idle_replies = self._idle_replies + 1 if all_replied and not working else 0


def _parse_reply(said: Any) -> tuple[int, int]:
    """Return the two numbers in a worker's reply: images and shards.

    A number is 0 if the worker's version does not send it.
    """
    known = said if isinstance(said, dict) else {}
    return int(known.get("images", 0)), int(known.get("shards", 0))
