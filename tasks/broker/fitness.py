"""Decide whether this worker runs a run's tasks or requeues them for other workers.

A failure takes less time than a download, so a broken worker would take most of a run's tasks and fail them. Therefore,
if a failure may be the worker's fault and another worker may succeed, the failure does not become an Outcome. Instead,
the failure is not counted, and the task is requeued. The task keeps its id, so it is still the same part of its chord.

- A failure to save, or an unusable proxy, is certainly the worker's fault.
- A DNS or connection failure, a timeout or a TLS failure may be the image's fault or the worker's. To find out whose
  fault it is, the worker connects to a host that responded before. If this connection succeeds, the worker's network
  works, so the failure is the image's fault, and the image fails. If no host has responded yet, or no host responds
  now, the next worker tries the task. After a few such failures, this worker is unfit.

An unfit worker declares itself unfit in Redis (``imagefleet:unfit:ID``), requeues the run's tasks, and takes no tasks
for a while. After the pause, the worker tries one task; if the task succeeds, the worker is fit again. An image fails
only if each of the other live workers is unfit or has tried the image. So if all hosts of a URL list are dead, all
workers become unfit, and the run still ends normally.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Literal, cast
from urllib.parse import urlsplit

import redis

from config import limits
from tasks.broker import keys
from tasks.broker.redis_retry import retry_until_redis_is_back
from tasks.errors import FetchError, StorageError
from tasks.model import Reason, shortened
from tasks.redaction import redacted

_log = logging.getLogger(__name__)
_DECLARE = Path(__file__).with_name("declare_unfit.lua").read_text(encoding="utf-8")
#: Reasons that may be the image's fault or the worker's fault, unless a server has responded.
_NETWORK = frozenset({Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.TLS})
#: The lengths of an unfit worker's first pause and of its longest pause, in seconds. Each failed trial task doubles the
#: pause.
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 30.0
#: Seconds for which a trouble is shown after its last failure. During a run, each failed trial task restarts this time.
_TROUBLE_SHOWN_SECONDS = 120.0
#: Seconds of the pause after a worker receives a task that it has already tried.
_YIELD_SECONDS = 0.1
#: Two limits: a number of hosts, and a number of failures. If no server responds in between, a worker becomes unfit
#: when downloads from this number of hosts have failed, or when this number of downloads has failed.
_MAX_SILENT_HOSTS, _MAX_SILENT_FAILURES = 3, 8
#: Seconds for which a probe's result is reused.
_PROBE_LIFETIME_SECONDS = 0.5
#: Timeout of a probe's connection to a host that responded before, in seconds.
PROBE_TIMEOUT_SECONDS = 3.0
#: Maximum number of hosts in one probe.
_PROBED_HOSTS = 3
#: Maximum number of remembered URLs whose servers have responded.
_REMEMBERED_URLS = 64
#: Seconds for which the set of fit workers is cached.
_OTHERS_LIFETIME_SECONDS = 1.0
_WHY_LIMIT = 200

Kind = Literal["storage", "network"]


@dataclass(frozen=True, slots=True)
class QueueNames:
    """The names of a worker's queues for images and shards."""

    images: str
    shards: str


#: Placeholder for the id of another worker, while no other worker is known yet.
_ANYBODY = "?"
#: The scope of network troubles, which affect all runs.
_EVERY_RUN = ""


class RetryElsewhere(Exception):  # noqa: N818  # it steers a task, as Celery's Retry does
    """Raised to requeue a task for another worker. The exception's text gives the reason, without secrets."""

    def __init__(self, why: str, tried_by: Collection[str]) -> None:
        """``why`` is the reason; ``tried_by`` are the ids of the workers that have already tried the task."""
        super().__init__(why)
        self.tried_by = list(tried_by)


@dataclass(slots=True)
class _Trouble:
    """A reason why this worker is unfit."""

    kind: Kind
    why: str
    #: Time of the last failure, by the monotonic clock. A task that started earlier proves nothing new about this
    #: worker.
    found_at: float
    #: The time from which one trial task may run.
    next_trial: float
    pause: float = _FIRST_PAUSE_SECONDS
    #: The runs in which this trouble was declared.
    declared: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class ImageJudge:
    """Judges the failures of one image's task; implements `tasks.fetch.Judge`."""

    fitness: Fitness
    run_id: str
    url: str
    #: The task's start time, as returned by `Fitness.check`.
    began: float
    #: The ids of the workers that have already tried the task.
    tried_by: Collection[str]

    def __call__(self, error: FetchError) -> None:
        """Judge the error of a failed image; see `Fitness.judge`."""
        self.fitness.judge(error, self.run_id, self.url, self.began, self.tried_by)

    def is_host_fault(self, error: FetchError) -> bool:
        """Return whether this worker reaches other hosts, so that a missing response is the fault of the host.

        A failed look-up proves nothing, because the names of the other hosts may be cached.
        """
        is_unclear = error.reason in _NETWORK - {Reason.DNS} and not error.is_worker_fault
        return is_unclear and self.fitness.reaches_others(error.reason)


class Fitness:
    """The fitness of this worker process; thread-safe."""

    def __init__(
        self,
        server: redis.Redis,
        worker: str,
        queues: QueueNames,
        pause: Callable[[float], None],
        probe: Callable[[str, int], None] | None,
    ) -> None:
        """Remember how to reach Redis, the transport and the network.

        Args:
            server: a client with decoded responses.
            worker: the id of this process. Outside of a worker, the id is empty, and no task is requeued.
            queues: the queues that another worker must consume to take over tasks.
            pause: stops this process from taking tasks for a number of seconds.
            probe: connects to a host and port, or raises a FetchError. The probe is None if all connections go through
                a proxy, because a proxy's failures are always the worker's fault.
        """
        self._server, self._worker, self._queues = server, worker, queues
        self._pause, self._probe = pause, probe
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._troubles: dict[str, _Trouble] = {}
        self._answered: deque[str] = deque(maxlen=_REMEMBERED_URLS)
        self._silent_hosts: set[str] = set()
        self._silent_failures = 0
        self._probed_at, self._reached = float("-inf"), False
        #: The last query for fit workers, its time, and its result.
        self._others: tuple[tuple[str, bool], float, frozenset[str]] = (("", False), 0.0, frozenset())

    @property
    def troubles(self) -> list[str]:
        """The reasons why this worker is unfit; empty if it is fit. Old reasons from ended runs are left out."""
        since = monotonic() - _TROUBLE_SHOWN_SECONDS
        return sorted({trouble.why for trouble in list(self._troubles.values()) if trouble.found_at >= since})

    def check(self, run_id: str, collects: bool = False, tried_by: Collection[str] = ()) -> float:
        """If this worker may run the task, return the task's start time on the monotonic clock.

        Args:
            run_id: the run.
            collects: whether the task is a collect task, which saves files but needs no network.
            tried_by: the ids of the workers that have already tried the task.

        Raises:
            RetryElsewhere: this worker is unfit for the run or has tried the task, and another worker may succeed.
        """
        now = monotonic()
        if self._worker in tried_by and self._fit_workers(run_id, collects).difference(tried_by):
            # All workers share one queue, so pause a moment to let another worker take the task.
            self._pause(_YIELD_SECONDS)
            raise RetryElsewhere("another worker should try it", ())
        # In the common case, this worker is fit. This check must be fast, because it runs for each image.
        if not self._troubles:
            return now
        for scope in (run_id,) if collects else (_EVERY_RUN, run_id):
            trouble = self._troubles.get(scope)
            if trouble is None:
                continue
            self._declare(run_id, trouble)
            if not self._fit_workers(run_id, collects):
                continue
            with self._lock:
                if now >= trouble.next_trial:
                    # This task is the trial that shows whether the worker is fit again.
                    trouble.next_trial = now + trouble.pause
                    continue
                wait = trouble.next_trial - now
            self._pause(wait)
            raise RetryElsewhere(trouble.why, ())
        return now

    def judge(
        self, error: FetchError, run_id: str, url: str, began: float, tried_by: Collection[str], collects: bool = False
    ) -> None:
        """Return normally if a failure is the image's fault, or if no other worker is left to try the image.

        Args:
            error: the task's failure.
            run_id: the run.
            url: the image's URL; empty for a collect task.
            began: the task's start time, as returned by `check`.
            tried_by: the ids of the workers that have already tried the task.
            collects: whether the task is a collect task.

        Raises:
            RetryElsewhere: the failure may be this worker's fault, and another worker may succeed.
        """
        if not self._worker:
            return
        if not error.is_worker_fault:
            if error.http_status is not None or error.reason not in _NETWORK or self._probe is None:
                return
            if self.reaches_others(error.reason):
                return
        # An image counts once, even if it returns to this worker several times. "No such name" does not count, because
        # it shows that DNS works.
        counts = self._worker not in tried_by and (error.reason is not Reason.DNS or error.retryable)
        if error.is_worker_fault or (counts and self._is_silence(url)):
            self._note_trouble(error, run_id, began)
        if self._fit_workers(run_id, collects).difference(tried_by):
            raise RetryElsewhere(str(error), dict.fromkeys([*tried_by, self._worker]))

    def note_answer(self, run_id: str, url: str, saved: bool, began: float) -> None:
        """Record a server's response, and whether the image was saved."""
        self._answered.append(url)
        if self._silent_failures:
            self._silent_hosts, self._silent_failures = set(), 0
        if self._troubles:
            for scope in (_EVERY_RUN, run_id):
                trouble = self._troubles.get(scope)
                # A task that was already in flight when the trouble was found proves nothing.
                if trouble is not None and began > trouble.found_at and (saved or trouble.kind == "network"):
                    self._recover(scope, trouble)

    def reaches_others(self, reason: Reason) -> bool:
        """Return whether this worker can connect to a host that responded before.

        Such a connection shows that the worker's network works.

        Args:
            reason: the reason of the failure whose cause is looked for.
        """
        probe = self._probe
        if probe is None:
            return False
        answered = list(dict.fromkeys(reversed(list(self._answered))))
        if reason is Reason.TLS:
            # The probe does not check certificates. But a worker that trusted a certificate earlier is able to check
            # certificates.
            return any(known.lower().startswith("https:") for known in answered)
        asked_at = monotonic()
        with self._probing:
            # A thread that waited for another thread's probe uses the result of that probe.
            if self._probed_at >= asked_at - _PROBE_LIFETIME_SECONDS:
                return self._reached
            addresses = list(dict.fromkeys(filter(None, map(_host_and_port, answered))))[:_PROBED_HOSTS]
            self._reached = any(self._connects(probe, *address) for address in addresses)
            self._probed_at = monotonic()
            if self._reached:
                self._silent_hosts, self._silent_failures = set(), 0
            return self._reached

    @staticmethod
    def _connects(probe: Callable[[str, int], None], host: str, port: int) -> bool:
        try:
            probe(host, port)
        except FetchError:
            return False
        return True

    def _is_silence(self, url: str) -> bool:
        """Count a failure without a response; return whether these failures now make this worker unfit."""
        address = _host_and_port(url)
        self._silent_hosts = self._silent_hosts | {address[0] if address else url}
        self._silent_failures += 1
        return len(self._silent_hosts) >= _MAX_SILENT_HOSTS or self._silent_failures >= _MAX_SILENT_FAILURES

    def _note_trouble(self, error: FetchError, run_id: str, began: float) -> None:
        """Mark this worker as unfit, and pause it if there are other workers."""
        kind: Kind = "storage" if isinstance(error, StorageError) else "network"
        scope = run_id if kind == "storage" else _EVERY_RUN
        now = monotonic()
        with self._lock:
            trouble = self._troubles.get(scope)
            if trouble is None:
                why = shortened(redacted(f"{error.reason}: {error}"), _WHY_LIMIT)
                trouble = self._troubles[scope] = _Trouble(kind, why, now, now + _FIRST_PAUSE_SECONDS)
                _log.warning("this worker is unfit and takes no tasks until a trial succeeds: %s", why)
            elif began > trouble.found_at:
                trouble.pause = min(2 * trouble.pause, _MAX_PAUSE_SECONDS)
                trouble.found_at, trouble.next_trial = now, now + trouble.pause
            wait = trouble.next_trial - now
        self._declare(run_id, trouble)
        if self._fit_workers(run_id, collects=False):
            self._pause(wait)

    def _declare(self, run_id: str, trouble: _Trouble) -> None:
        """Report a trouble to a run's producer and to its other workers, once for each run."""
        if run_id in trouble.declared:
            return
        record = json.dumps({"kind": trouble.kind, "why": trouble.why})
        script_keys = keys.run(run_id), keys.unfit(run_id)
        retry_until_redis_is_back(
            lambda: self._server.eval(_DECLARE, 2, *script_keys, limits.RUN_RECORD_TTL, self._worker, record)
        )
        trouble.declared.add(run_id)

    def _recover(self, scope: str, trouble: _Trouble) -> None:
        with self._lock:
            if self._troubles.get(scope) is not trouble:
                return
            del self._troubles[scope]
        _log.warning("this worker is fit again after a successful trial; it was unfit because of: %s", trouble.why)
        for run_id in trouble.declared:
            retry_until_redis_is_back(partial(self._server.hdel, keys.unfit(run_id), self._worker))

    def _fit_workers(self, run_id: str, collects: bool) -> frozenset[str]:
        """Return the ids of the other live workers that consume the task's queue, except those declared unfit.

        A collect task has its own queue, and a worker without network can still run it.
        """
        query = run_id, collects
        last_query, queried_at, cached = self._others
        if last_query == query and monotonic() - queried_at < _OTHERS_LIFETIME_SECONDS:
            return cached
        found = retry_until_redis_is_back(partial(self._query_fit_workers, run_id, collects))
        self._others = query, monotonic(), found
        return found

    def _query_fit_workers(self, run_id: str, collects: bool) -> frozenset[str]:
        workers = cast("set[str]", self._server.smembers(keys.WORKERS)) - {self._worker}
        records = cast("dict[str, str]", self._server.hgetall(keys.unfit(run_id)))
        unfit = {name for name, text in records.items() if not collects or json.loads(text)["kind"] == "storage"}
        candidates = sorted(workers - unfit)
        with self._server.pipeline(transaction=False) as pipe:
            for name in (self._worker, *candidates):
                pipe.get(keys.heartbeat(name))
            own, *heartbeats = pipe.execute()
        if own is None:
            # No heartbeat exists, because Redis was unreachable or was emptied. All workers soon renew their
            # heartbeats, so no worker counts as dead.
            return frozenset(candidates) or frozenset([_ANYBODY])
        queue = self._queues.shards if collects else self._queues.images
        found = zip(candidates, heartbeats, strict=True)
        return frozenset(name for name, queues in found if queue in str(queues).split(","))


def _host_and_port(url: str) -> tuple[str, int] | None:
    """Return the host and port of a URL, or None if the URL has no host."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)) if parts.hostname else None
    except ValueError:
        return None
