"""Extend Celery's Redis backend: count chord parts in batches, and retry while Redis is unreachable.

Celery counts each chord part by a Lua script, in a separate round trip, and does not retry. If Redis restarts during
this round trip, the chord stays incomplete for ever, although the image is saved. Here, one script call counts all
parts of a batch that belong to the same chord (``count_chord_parts.lua``). The call is repeated until Redis has
executed it. The script leaves the same data in Redis as Celery's script, so workers with and without this backend can
count parts of the same chord. Celery's own code still starts the chord's body, the collect task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import orjson
from celery import Celery
from celery._state import _task_stack
from celery.backends.redis import RedisBackend, SentinelBackend
from redis.exceptions import NoScriptError, ReadOnlyError

from tasks.broker.ack_batcher import AckBatcher, BatchedRequest
from tasks.broker.redis_retry import retry_until_redis_is_back

_COUNT = Path(__file__).with_name("count_chord_parts.lua").read_text(encoding="utf-8")
#: The expiry of a chord's keys is renewed after this many chord parts.
_RENEW_EVERY = 100
#: Suffixes of a chord's keys, in the order in which the script expects the keys. The last key holds Celery's claim to
#: start the chord's body.
_KEY_SUFFIXES = (".j", ".t", ".s", ".d", "", ".c")


@dataclass(frozen=True, slots=True)
class ChordPart:
    """A chord part to count: the task's request, state and result, and the value that Celery stores for this part."""

    request: Any
    state: str
    result: Any
    encoded: bytes | str

    @property
    def group(self) -> str:
        """The chord's group id."""
        return str(self.request.group)


@dataclass(frozen=True, slots=True)
class UnloggedResult:
    """A result that is not formatted for Celery's log and events, because formatting costs time for each image."""

    value: Any

    def __repr__(self) -> str:
        # Celery formats each result, even if neither the log nor an event shows it.
        return "UnloggedResult(...)"


class BatchingBackend(RedisBackend):  # type: ignore[misc]  # Celery has no annotations
    """Celery's backend, changed to count chord parts in batches. Each thread has its own instance."""

    #: The names of the tasks with batched counting.
    batched_tasks: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # When a server becomes a replica, it refuses writes but keeps its connections open. So retry on a new
        # connection, which may lead to the new master.
        self.connparams["retry_on_error"] = [ReadOnlyError]

    def on_chord_part_return(self, request: Any, state: str, result: Any, *rest: Any, **options: Any) -> Any:
        """Count a chord part, or add it to the next batch.

        Celery identifies a chord part by its task's id, so counting the part again changes nothing.
        """
        if isinstance(result, UnloggedResult):
            result = result.value
        has_index = request.group_index is not None and self._chord_zset
        if getattr(request, "task", None) not in self.batched_tasks or not has_index:
            count = super().on_chord_part_return
            return retry_until_redis_is_back(lambda: count(request, state, result, *rest, **options))
        value = [1, request.id, state, self.encode_result(result, state)]
        BatchedRequest.ack_batcher.add_part(ChordPart(request, state, result, self._encode_part(value)))
        return None

    def count(self, parts: list[ChordPart]) -> None:
        """Count chord parts, and start the bodies of completed chords. The call is idempotent.

        Raises:
            redis.RedisError: some chord parts could not be counted.
        """
        chords = [list(group) for _, group in groupby(sorted(parts, key=attrgetter("group")), attrgetter("group"))]
        answers = self._run_count_script(chords)
        # SCRIPT FLUSH or a failover may have removed the script from the server. In that case, send the whole script.
        without_script = [chord for chord, answer in answers if isinstance(answer, NoScriptError)]
        if without_script:
            answers = [pair for pair in answers if not isinstance(pair[1], NoScriptError)]
            answers += self._run_count_script(without_script, whole_script=True)
        errors = [answer for _, answer in answers if isinstance(answer, Exception)]
        for chord, claimed in answers:
            if claimed == 1:
                # Celery's own code starts the body. That code claims the chord's body itself, so delete our claim of
                # the body. Celery then treats the chord part of this call as already counted, and finds the chord
                # complete.
                part = chord[-1]
                self.client.delete(self._keys(part.group)[-1])
                with self._task_context(part.request):
                    super().on_chord_part_return(part.request, part.state, part.result)
        if errors:
            if any(isinstance(error, ReadOnlyError) for error in errors):
                self.client.connection_pool.disconnect()
            raise errors[0]

    def _run_count_script(
        self, chords: list[list[ChordPart]], whole_script: bool = False
    ) -> list[tuple[list[ChordPart], Any]]:
        """Return each chord with the script's reply. An error for one chord does not affect the other chords."""
        with self.client.pipeline(transaction=False) as pipe:
            for chord in chords:
                call, script = (pipe.eval, _COUNT) if whole_script else (pipe.evalsha, self._script.sha)
                call(script, len(_KEY_SUFFIXES), *self._keys(chord[0].group), *self._script_arguments(chord))
            return list(zip(chords, pipe.execute(raise_on_error=False), strict=True))

    @contextmanager
    def _task_context(self, request: Any) -> Iterator[None]:
        """Restore a finished task's context in the block, so that the task is the parent of the messages sent there."""
        requests = self.app.tasks[request.task].request_stack
        _task_stack.push(self.app.tasks[request.task])
        requests.push(request)
        try:
            yield
        finally:
            requests.pop()
            _task_stack.pop()

    def _keys(self, group: str) -> list[bytes]:
        return [self.get_key_for_group(group, kind) for kind in _KEY_SUFFIXES]

    def _script_arguments(self, chord: list[ChordPart]) -> list[Any]:
        renew = any(part.request.group_index % _RENEW_EVERY == 0 for part in chord)
        lifetime = self.chord_expires or 0 if renew else 0
        parts = ((part.request.id, part.request.group_index, part.encoded) for part in chord)
        return [
            lifetime,
            self._chord_result_expires,
            self._claim_lifetime,
            uuid4().hex,
            *chain.from_iterable(parts),
        ]

    def _encode_part(self, value: list[Any]) -> bytes | str:
        """Return a value as JSON for Celery.

        The orjson library takes a tenth of the time that Celery takes, but rejects lone surrogates.
        """
        try:
            return orjson.dumps(value)
        except TypeError:
            return str(self.encode(value))

    @cached_property
    def _claim_lifetime(self) -> int:
        """Seconds until Celery's claim on a chord's body expires. Only the claim's holder starts the body."""
        return max(5, int((self.app.conf.result_chord_join_timeout or 5.0) * 2))

    @cached_property
    def _script(self) -> Any:
        return self.client.register_script(_COUNT)


class SentinelBatchingBackend(BatchingBackend, SentinelBackend):  # type: ignore[misc]  # Celery has no annotations
    """Our backend for Redis Sentinel. It connects to the current master."""


def install(app: Celery, batched_tasks: frozenset[str]) -> None:
    """Make an app use this backend for the URLs of Redis servers and Sentinels.

    The batcher counts the chord parts of the tasks in ``batched_tasks``. The ``Request`` class of these tasks must be
    `BatchedRequest`.
    """
    name = f"{__name__}:{BatchingBackend.__name__}"
    sentinel = f"{__name__}:{SentinelBatchingBackend.__name__}"
    app.loader.override_backends = {"redis": name, "rediss": name, "sentinel": sentinel}
    BatchingBackend.batched_tasks = batched_tasks

    def count(parts: list[ChordPart]) -> None:
        # app.backend is the backend of the calling thread, for the app's current broker.
        app.backend.count(parts)

    BatchedRequest.ack_batcher = AckBatcher(count)
