"""Count this process's results, and add them to the run's sums in Redis a few times a second.

Counting an image only changes numbers in memory. Each flush is one round trip for any number of images, so the cost
does not grow with the number of images. The sums are only for display, because a task that ran twice counts twice. The
manifests are the authoritative record.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import redis

from config import limits
from tasks.broker import keys
from tasks.broker.redis_errors import redis_problem
from tasks.model import Outcome, Reason

_log = logging.getLogger(__name__)
#: Redis has one sum of failed images for each reason. The name of such a sum is this prefix and the reason.
REASON = "reason:"
#: Seconds between two flushes.
_FLUSH_INTERVAL_SECONDS = 0.25
_SCRIPT = Path(__file__).with_suffix(".lua").read_text(encoding="utf-8")


class ProgressCounters:
    """The sums of one process, by run; thread-safe."""

    def __init__(self, connect: Callable[[], redis.Redis]) -> None:
        """Create the counter; ``connect`` returns a client, and the flushing thread calls it at the first flush."""
        self._connect = connect
        self._lock = threading.Lock()
        self._sums: dict[str, Counter[str]] = {}
        self._pending = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, run_id: str, outcome: Outcome) -> None:
        """Count one finished image."""
        with self._lock:
            sums = self._sums.setdefault(run_id, Counter())
            sums["success" if outcome.ok else "failed"] += 1
            sums["bytes"] += outcome.bytes or 0
            if outcome.reason is not None:
                sums[f"{REASON}{outcome.reason}"] += 1
            if outcome.reason is Reason.STORAGE:
                sums["unsaved"] += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_loop, name="progress", daemon=True)
                self._thread.start()
        self._pending.set()

    def _flush_loop(self) -> None:
        server = self._connect()
        pause = threading.Event()
        while self._pending.wait():
            pause.wait(_FLUSH_INTERVAL_SECONDS)
            self._pending.clear()
            with self._lock:
                sums, self._sums = self._sums, {}
            try:
                self._flush(server, sums)
            except redis.RedisError as error:
                # Don't retry: Redis may already have added these sums, and a retry would add them twice.
                _log.warning("could not update the progress: %s", error)

    def _flush(self, server: redis.Redis, sums: dict[str, Counter[str]]) -> None:
        pipe = server.pipeline(transaction=False)
        for run_id, counts in sums.items():
            increments = [item for pair in counts.items() for item in pair]
            pipe.eval(_SCRIPT, 2, keys.run(run_id), keys.progress(run_id), limits.RUN_RECORD_TTL, *increments)
        for (run_id, counts), answer in zip(sums.items(), pipe.execute(raise_on_error=False), strict=True):
            if isinstance(answer, Exception):
                problem = redis_problem(answer)
                _log.warning("could not update the progress: %s", problem.text)
                if problem.temporary:
                    self._restore(run_id, counts)

    def _restore(self, run_id: str, counts: Counter[str]) -> None:
        """Add sums back, so that the next flush sends them."""
        with self._lock:
            self._sums.setdefault(run_id, Counter()).update(counts)
        self._pending.set()
