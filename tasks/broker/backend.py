"""The chord counter: Celery's Redis backend, which here counts parts in batches and waits for a Redis that is away.

Celery counts each part in a round trip and a script of its own, and tries that once: a Redis that restarts at that
moment would leave its chord one part short for ever, though the image is saved. Here the parts of one moment are
counted by one script for each chord (``count_chord_parts.lua``), again and again until Redis has heard it. What stands
in Redis is what Celery's script leaves, so workers with and without this backend count the same chord; and it is
Celery's own code that fires a chord's body.
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
#: Every so many parts of a chord, the life time of its keys is set again.
_RENEW_EVERY = 100
#: Ends the names of a chord's keys, in the order of the script's; the claim is the last.
_KEY_SUFFIXES = (".j", ".t", ".s", ".d", "", ".c")


@dataclass(frozen=True, slots=True)
class ChordPart:
    """A part that is to be counted: its task's request, how that ended, and both as Celery keeps them."""

    request: Any
    state: str
    result: Any
    encoded: bytes | str

    @property
    def group(self) -> str:
        """The group of the chord."""
        return str(self.request.group)


@dataclass(frozen=True, slots=True)
class UnloggedResult:
    """A part's result that nobody is shown; Celery makes a text of any other for its log and events, at a price."""

    value: Any


class BatchingBackend(RedisBackend):  # type: ignore[misc]  # Celery has no annotations
    """Celery's backend; it counts the parts of one moment in one round trip. Each thread has its own."""

    #: The tasks whose parts the settler counts.
    batched_tasks: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A server that became a replica keeps its connections, and the address may lead to the new master by now.
        self.connparams["retry_on_error"] = [ReadOnlyError]

    def on_chord_part_return(self, request: Any, state: str, result: Any, *rest: Any, **options: Any) -> Any:
        """Have a part counted, or count it; Celery knows parts by their task's id, so a second time changes nothing."""
        if isinstance(result, UnloggedResult):
            result = result.value
        placed = request.group_index is not None and self._chord_zset
        if getattr(request, "task", None) not in self.batched_tasks or not placed:
            count = super().on_chord_part_return
            return retry_until_redis_is_back(lambda: count(request, state, result, *rest, **options))
        value = [1, request.id, state, self.encode_result(result, state)]
        BatchedRequest.ack_batcher.add_part(ChordPart(request, state, result, self._encode_part(value)))
        return None

    def count(self, parts: list[ChordPart]) -> None:
        """Count parts, and fire the bodies of the chords that they complete; the same parts may be counted again.

        Raises:
            redis.RedisError: not all of them could be counted.
        """
        chords = [list(group) for _, group in groupby(sorted(parts, key=attrgetter("group")), attrgetter("group"))]
        answers = self._run_count_script(chords)
        # The server has lost its scripts, as after SCRIPT FLUSH or a failover.
        forgotten = [chord for chord, answer in answers if isinstance(answer, NoScriptError)]
        if forgotten:
            answers = [pair for pair in answers if not isinstance(pair[1], NoScriptError)]
            answers += self._run_count_script(forgotten, whole_script=True)
        errors = [answer for _, answer in answers if isinstance(answer, Exception)]
        for chord, claimed in answers:
            if claimed == 1:
                # The claim is for whoever fires the body. That is Celery's own code, which has to make one of its own:
                # to it, this part is a second copy that finds the chord complete.
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
        """Return what the script has answered for each chord, which may be an error; the others are counted then."""
        with self.client.pipeline(transaction=False) as pipe:
            for chord in chords:
                call, script = (pipe.eval, _COUNT) if whole_script else (pipe.evalsha, self._script.sha)
                call(script, len(_KEY_SUFFIXES), *self._keys(chord[0].group), *self._script_arguments(chord))
            return list(zip(chords, pipe.execute(raise_on_error=False), strict=True))

    @contextmanager
    def _task_context(self, request: Any) -> Iterator[None]:
        """Be in a task again, which is over: what is sent has it for its parent."""
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
        renewed = any(part.request.group_index % _RENEW_EVERY == 0 for part in chord)
        lifetime = self.chord_expires or 0 if renewed else 0
        triples = ((part.request.id, part.request.group_index, part.encoded) for part in chord)
        return [lifetime, self._chord_result_expires, self._claim_lifetime, uuid4().hex, *chain.from_iterable(triples)]

    def _encode_part(self, value: list[Any]) -> bytes | str:
        """Return JSON as Celery reads it; orjson takes a tenth of the time, and knows no lone surrogates."""
        try:
            return orjson.dumps(value)
        except TypeError:
            return str(self.encode(value))

    @cached_property
    def _claim_lifetime(self) -> int:
        """Seconds for which Celery claims a body."""
        return max(5, int((self.app.conf.result_chord_join_timeout or 5.0) * 2))

    @cached_property
    def _script(self) -> Any:
        return self.client.register_script(_COUNT)


class SentinelBatchingBackend(BatchingBackend, SentinelBackend):  # type: ignore[misc]  # Celery has no annotations
    """Our backend, at whichever server the Sentinels call the master."""


def install(app: Celery, batched_tasks: frozenset[str]) -> None:
    """Let an app that is given the URL of a Redis, or of Sentinels, use this backend.

    Its settler counts the parts of the named tasks, which need `BatchedRequest` as their ``Request``.
    """
    name = f"{__name__}:{BatchingBackend.__name__}"
    sentinel = f"{__name__}:{SentinelBatchingBackend.__name__}"
    app.loader.override_backends = {"redis": name, "rediss": name, "sentinel": sentinel}
    BatchingBackend.batched_tasks = batched_tasks

    def count(parts: list[ChordPart]) -> None:
        # The backend of the thread that calls, and of the broker that the app has by then.
        app.backend.count(parts)

    BatchedRequest.ack_batcher = AckBatcher(count)
