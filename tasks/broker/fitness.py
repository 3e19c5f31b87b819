"""Whether this worker can do a run's work, or hands its tasks to workers that can.

Failing is faster than downloading, so a worker that can only fail would take most of a run's tasks. Therefore a failure
that may be the worker's own, and not the image's, is no Outcome while another worker may succeed: the task is sent
again under its id, as the same part of its chord, and nothing is counted.

- What can't be saved, and a proxy that can't be used, is the worker's own fault for sure.
- A name that is not resolved, a connection that fails, a timeout or a TLS failure may be either's. The worker connects
  once more to a host that has answered it before: if that works, the image has failed. If nothing has answered yet, or
  nothing answers any more, the next worker tries, and after a few such failures this worker calls itself unfit.

An unfit worker says so in Redis (``imagefleet:unfit:ID``), hands back what it is given of the run, and takes nothing
for a while. Then it tries one task; if that works, it is fit again. The image fails only where every other worker that
is alive is unfit as well, or has tried it. So a list of dead hosts makes all workers unfit, and ends as usual.
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
#: The reasons that say nothing of whose fault it is, as long as no server has answered.
_NETWORK = frozenset({Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.TLS})
#: Seconds for which an unfit worker takes nothing: at first, and at most; it doubles with each failure.
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 30.0
#: Seconds for which a trouble is shown after it was met last; while its run goes on, it is met at each trial.
_TROUBLE_SHOWN_SECONDS = 120.0
#: Seconds for which a worker takes nothing after a task that it has tried already.
_YIELD_SECONDS = 0.1
#: So many hosts, or failures, without any answer make a worker unfit.
_MAX_SILENT_HOSTS, _MAX_SILENT_FAILURES = 3, 8
#: Seconds for which the last attempt to reach a host that has answered says how the network is.
_PROBE_LIFETIME_SECONDS = 0.5
#: Seconds within which a host that has answered before has to let itself be connected to.
PROBE_TIMEOUT_SECONDS = 3.0
#: The most hosts that one probe tries.
_PROBED_HOSTS = 3
#: URLs of the last images that were answered.
_REMEMBERED_URLS = 64
#: Seconds for which the list of other workers is taken from memory.
_OTHERS_LIFETIME_SECONDS = 1.0
_WHY_LIMIT = 200

Kind = Literal["storage", "network"]


@dataclass(frozen=True, slots=True)
class QueueNames:
    """The names of the queues that a worker takes images and shards from."""

    images: str
    shards: str


#: Stands for another worker of which nothing is known yet.
_ANYBODY = "?"
#: What stands for all runs among the troubles: the network is the same for each.
_EVERY_RUN = ""


class RetryElsewhere(Exception):  # noqa: N818  # it steers a task, as Celery's Retry
    """Raised where another worker is to do a task; its text says why, and is fit to be shown."""

    def __init__(self, why: str, tried_by: Collection[str]) -> None:
        """Take why, and the ids of the workers that have tried the task."""
        super().__init__(why)
        self.tried_by = list(tried_by)


@dataclass(slots=True)
class _Trouble:
    """What makes this worker unfit."""

    kind: Kind
    why: str
    #: When it was last found, by the monotonic clock; what began before that shows nothing new.
    found_at: float
    #: When one task may be tried again.
    next_trial: float
    pause: float = _FIRST_PAUSE_SECONDS
    #: The runs whose producers know.
    declared: set[str] = field(default_factory=set)


class Fitness:
    """What this worker process knows of its own fitness; any thread may ask."""

    def __init__(
        self,
        server: redis.Redis,
        worker: str,
        queues: QueueNames,
        pause: Callable[[float], None],
        probe: Callable[[str, int], None] | None,
    ) -> None:
        """Take what it needs to tell and to ask.

        Args:
            server: a client that decodes.
            worker: the id of this process; empty where it is no worker's, and then nothing is handed over.
            queues: from where other workers have to take.
            pause: keeps this process from taking tasks for so many seconds.
            probe: connects to a host and port, and raises a FetchError if that fails; None where all connections go
                through a proxy, which is judged by itself.
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
        #: What was last asked of other workers, when, and the answer.
        self._others: tuple[tuple[str, bool], float, frozenset[str]] = (("", False), 0.0, frozenset())

    @property
    def troubles(self) -> list[str]:
        """Why this worker is unfit; empty if it is not. Troubles that were not met for a while belong to ended runs."""
        since = monotonic() - _TROUBLE_SHOWN_SECONDS
        return sorted({trouble.why for trouble in list(self._troubles.values()) if trouble.found_at >= since})

    def check(self, run_id: str, collects: bool = False, tried_by: Collection[str] = ()) -> float:
        """Return when a task begins, by the monotonic clock, if this worker may do it.

        Args:
            run_id: the run.
            collects: whether the task only has to save, and needs no network.
            tried_by: the ids of the workers that have tried it before.

        Raises:
            RetryElsewhere: this worker is unfit for the run, or has tried the task, and another one may succeed.
        """
        now = monotonic()
        if self._worker in tried_by and self._fit_workers(run_id, collects).difference(tried_by):
            # All workers take from one queue, so the others get a moment to be the next.
            self._pause(_YIELD_SECONDS)
            raise RetryElsewhere("another worker is to try it", ())
        # On the way of each image.
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
                    # This one is the trial.
                    trouble.next_trial = now + trouble.pause
                    continue
                left = trouble.next_trial - now
            self._pause(left)
            raise RetryElsewhere(trouble.why, ())
        return now

    def judge(
        self, error: FetchError, run_id: str, url: str, began: float, tried_by: Collection[str], collects: bool = False
    ) -> None:
        """Return if a failure is the image's own, or nobody else can do better.

        Args:
            error: what the task would fail with.
            run_id: the run.
            url: of the image; empty for a task that collects.
            began: when the task began, as `check` has told.
            tried_by: the ids of the workers that have tried it before.
            collects: whether the task only has to save.

        Raises:
            RetryElsewhere: the fault may be this worker's, and another worker may succeed.
        """
        if not self._worker:
            return
        if not error.of_worker:
            if error.http_status is not None or error.reason not in _NETWORK or self._probe is None:
                return
            if self._reaches_others(url, error.reason):
                return
        # An image counts once, however often it comes back; and "no such name" is what a name server says that works.
        counts = self._worker not in tried_by and (error.reason is not Reason.DNS or error.retryable)
        if error.of_worker or (counts and self._is_silence(url)):
            self._note_trouble(error, run_id, began)
        if self._fit_workers(run_id, collects).difference(tried_by):
            raise RetryElsewhere(str(error), dict.fromkeys([*tried_by, self._worker]))

    def note_answer(self, run_id: str, url: str, saved: bool, began: float) -> None:
        """Note that a server has answered, and whether the image was saved."""
        self._answered.append(url)
        if self._silent_failures:
            self._silent_hosts, self._silent_failures = set(), 0
        if self._troubles:
            for scope in (_EVERY_RUN, run_id):
                trouble = self._troubles.get(scope)
                # What was under way when the trouble was found shows nothing.
                if trouble is not None and began > trouble.found_at and (saved or trouble.kind == "network"):
                    self._recover(scope, trouble)

    def _reaches_others(self, url: str, reason: Reason) -> bool:
        """Tell whether a host that has answered before can be connected to now: then the network here is in order."""
        probe = self._probe
        if probe is None:
            return False
        answered = list(dict.fromkeys(reversed(list(self._answered))))
        if reason is Reason.TLS:
            # To connect says nothing of certificates; any that was trusted does.
            return any(known.lower().startswith("https:") for known in answered)
        asked_at = monotonic()
        with self._probing:
            # Who has waited for another one's probe takes what that has shown.
            if self._probed_at >= asked_at - _PROBE_LIFETIME_SECONDS:
                return self._reached
            places = list(dict.fromkeys(filter(None, map(_host_and_port, answered))))[:_PROBED_HOSTS]
            self._reached = any(self._connects(probe, *place) for place in places)
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
        """Count a failure without any answer; tell whether there were enough to call this worker unfit."""
        place = _host_and_port(url)
        self._silent_hosts = self._silent_hosts | {place[0] if place else url}
        self._silent_failures += 1
        return len(self._silent_hosts) >= _MAX_SILENT_HOSTS or self._silent_failures >= _MAX_SILENT_FAILURES

    def _note_trouble(self, error: FetchError, run_id: str, began: float) -> None:
        """Call this worker unfit, and have it take nothing for a while if there are others."""
        kind: Kind = "storage" if isinstance(error, StorageError) else "network"
        scope = run_id if kind == "storage" else _EVERY_RUN
        now = monotonic()
        with self._lock:
            trouble = self._troubles.get(scope)
            if trouble is None:
                why = shortened(redacted(f"{error.reason}: {error}"), _WHY_LIMIT)
                trouble = self._troubles[scope] = _Trouble(kind, why, now, now + _FIRST_PAUSE_SECONDS)
                _log.warning("this worker leaves tasks to other workers, until one that it tries succeeds: %s", why)
            elif began > trouble.found_at:
                trouble.pause = min(2 * trouble.pause, _MAX_PAUSE_SECONDS)
                trouble.found_at, trouble.next_trial = now, now + trouble.pause
            left = trouble.next_trial - now
        self._declare(run_id, trouble)
        if self._fit_workers(run_id, collects=False):
            self._pause(left)

    def _declare(self, run_id: str, trouble: _Trouble) -> None:
        """Tell the other workers and the producer of a run, once."""
        if run_id in trouble.declared:
            return
        said = json.dumps({"kind": trouble.kind, "why": trouble.why})
        places = keys.run(run_id), keys.unfit(run_id)
        retry_until_redis_is_back(
            lambda: self._server.eval(_DECLARE, 2, *places, limits.RUN_RECORD_TTL, self._worker, said)
        )
        trouble.declared.add(run_id)

    def _recover(self, scope: str, trouble: _Trouble) -> None:
        with self._lock:
            if self._troubles.get(scope) is not trouble:
                return
            del self._troubles[scope]
        _log.warning("this worker is fit again: what it could not do, it has done (%s)", trouble.why)
        for run_id in trouble.declared:
            retry_until_redis_is_back(partial(self._server.hdel, keys.unfit(run_id), self._worker))

    def _fit_workers(self, run_id: str, collects: bool) -> frozenset[str]:
        """Return the ids of the other workers that are alive, take such tasks, and have not called themselves unfit.

        For a task that only has to save, one whose network fails is able, too.
        """
        question = run_id, collects
        asked, asked_at, known = self._others
        if asked == question and monotonic() - asked_at < _OTHERS_LIFETIME_SECONDS:
            return known
        found = retry_until_redis_is_back(partial(self._query_fit_workers, run_id, collects))
        self._others = question, monotonic(), found
        return found

    def _query_fit_workers(self, run_id: str, collects: bool) -> frozenset[str]:
        workers = cast("set[str]", self._server.smembers(keys.WORKERS)) - {self._worker}
        said = cast("dict[str, str]", self._server.hgetall(keys.unfit(run_id)))
        unfit = {name for name, text in said.items() if not collects or json.loads(text)["kind"] == "storage"}
        candidates = sorted(workers - unfit)
        with self._server.pipeline(transaction=False) as pipe:
            for name in (self._worker, *candidates):
                pipe.get(keys.heartbeat(name))
            own, *signs = pipe.execute()
        if own is None:
            # Redis was away or is empty, and all will give a sign again soon: nobody is known to be missing.
            return frozenset(candidates) or frozenset([_ANYBODY])
        queue = self._queues.shards if collects else self._queues.images
        return frozenset(name for name, sign in zip(candidates, signs, strict=True) if queue in str(sign).split(","))


def _host_and_port(url: str) -> tuple[str, int] | None:
    """Return the host and port of a URL; None where it has none."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)) if parts.hostname else None
    except ValueError:
        return None
