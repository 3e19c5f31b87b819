"""The drain of a run that was told to end early: its queued tasks are dropped, and what is being downloaded finishes.

The run's options in Redis say that it drains, so a worker that takes a task of it drops the task. Workers keep options
in memory for a few seconds; a control command has them read the options again at once, and is answered with what their
slots are at.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import redis

from tasks.broker import liveness
from tasks.celery import DRAIN, app

#: Seconds between two questions to the workers, and for one answer.
_ASK_INTERVAL_SECONDS = 0.5
_ANSWER_SECONDS = 1.0
#: Seconds for which a worker that gives signs of life and does not answer is waited for.
_SILENT_SECONDS = 10.0
#: Seconds beyond a run's deadline for one image: it covers a download that began just before the end, and its manifest.
_GRACE_SECONDS = 5.0
#: A task can be between two slots, or a manifest about to be written, so one answer without work is not enough.
_IDLE_ANSWERS = 2


@dataclass(slots=True)
class Drain:
    """How far a run's drain is; times in seconds of the monotonic clock."""

    run_id: str
    #: A client that decodes.
    server: redis.Redis
    #: The longest time that one image may take.
    deadline: float
    _since: float = field(default_factory=time.monotonic)
    _asked_at: float = 0.0
    #: Images and shards that each worker is at, by its name.
    _busy: dict[str, tuple[int, int]] = field(default_factory=dict)
    _idle_answers: int = 0

    @property
    def images(self) -> int:
        """How many images are being downloaded, by the last answers."""
        return sum(images for images, _ in self._busy.values())

    @property
    def idle(self) -> bool:
        """Whether no worker is at anything of the run."""
        return self._idle_answers >= _IDLE_ANSWERS

    @property
    def overdue(self) -> bool:
        """Whether it has taken as long as it may."""
        return time.monotonic() - self._since > self.deadline + _GRACE_SECONDS

    def ask(self) -> None:
        """Have the workers drop what is queued, and hear what they are at; at most twice a second.

        Raises:
            redis.RedisError, OperationalError: Redis is away.
        """
        if time.monotonic() - self._asked_at < _ASK_INTERVAL_SECONDS:
            return
        living = [name for name, lives in liveness.worker_liveness(self.server).items() if lives]
        # Without a limit, each question would take as long as an answer may.
        answers = app.control.broadcast(
            DRAIN, {"run_id": self.run_id}, reply=True, timeout=_ANSWER_SECONDS, limit=max(len(living), 1)
        )
        heard = {name: _parse_answer(said) for answer in answers or [] for name, said in answer.items()}
        self._asked_at = time.monotonic()
        # A worker that does not answer is at what it was at, unless it has died.
        nodes = {worker.node for worker in map(liveness.WorkerId.parse, living) if worker is not None}
        self._busy = {name: work for name, work in {**self._busy, **heard}.items() if name in nodes | heard.keys()}
        all_heard = len(heard) >= len(living) or self._asked_at - self._since > _SILENT_SECONDS
        working = any(images or shards for images, shards in self._busy.values())
        self._idle_answers = self._idle_answers + 1 if all_heard and not working else 0


def _parse_answer(said: Any) -> tuple[int, int]:
    """Return the images and shards that a worker says it is at; a worker of another version has none of this run."""
    known = said if isinstance(said, dict) else {}
    return int(known.get("images", 0)), int(known.get("shards", 0))
