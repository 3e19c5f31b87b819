"""The chord counter: Celery's Redis backend, which here counts parts in batches and waits for a Redis that is away.

Celery tries to count a finished part once. A Redis that restarts at that moment would leave its chord one part short
for ever, though the image is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from celery import Celery
from celery.backends.redis import CHORD_PART_RETURN_LUA, RedisBackend
from redis.exceptions import NoScriptError

from tasks.away import patiently
from tasks.settle import SettledRequest, Settler

#: Every so many parts of a chord, the life time of its keys is set again.
_RENEWAL = 100
#: Where it stands among the arguments of Celery's script, and where the key of the claim stands among its keys.
_LIFETIME, _CLAIM = 4, 5


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is to be counted, with the keys and arguments of Celery's script for that."""

    request: Any
    state: str
    result: Any
    keys: Sequence[Any]
    arguments: Sequence[Any]


class BatchingBackend(RedisBackend):  # type: ignore[misc]  # Celery has no annotations
    """Celery's backend; it counts the parts of one moment in one round trip. Each thread has its own."""

    #: The tasks whose parts the settler counts.
    settled: ClassVar[frozenset[str]] = frozenset()
    _noted: tuple[Sequence[Any], list[Any]] | None = None
    _noting = False

    def on_chord_part_return(self, request: Any, state: str, result: Any, *rest: Any, **options: Any) -> Any:
        """Have a part counted, or count it; Celery knows parts by their task's id, so a second time changes nothing."""
        count = super().on_chord_part_return
        if getattr(request, "task", None) not in self.settled:
            return patiently(lambda: count(request, state, result, *rest, **options))
        self._noting = True
        try:
            count(request, state, result, *rest, **options)
        finally:
            self._noting = False
        if self._noted is not None:
            (keys, arguments), self._noted = self._noted, None
            if (request.group_index or 0) % _RENEWAL:
                arguments[_LIFETIME] = 0
            SettledRequest.settler.part(Part(request, state, result, keys, arguments))
        return None

    def count(self, parts: list[Part]) -> None:
        """Count parts, and fire the bodies of the chords that they complete.

        Raises:
            redis.RedisError: not all of them could be counted.
        """
        with self.client.pipeline(transaction=False) as pipe:
            for part in parts:
                pipe.evalsha(self._script.sha, len(part.keys), *part.keys, *part.arguments)
            try:
                replies = pipe.execute()
            except NoScriptError:
                self.client.script_load(CHORD_PART_RETURN_LUA)
                return self.count(parts)
        for part, (*_, claimed) in zip(parts, replies, strict=True):
            if claimed:
                # The claim is for whoever fires the body. That is Celery's own code, which has to make one of its own:
                # to it, this part is a second copy that finds the chord complete.
                self.client.delete(part.keys[_CLAIM])
                super().on_chord_part_return(part.request, part.state, part.result)
        return None

    @property
    def _chord_part_return_script(self) -> Any:
        return self._note if self._noting else self._script

    @cached_property
    def _script(self) -> Any:
        return self.client.register_script(CHORD_PART_RETURN_LUA)

    def _note(self, keys: Sequence[Any], args: list[Any], client: Any) -> tuple[int, int, int, int]:
        """Stand in for Celery's script: note what it would count, and say that there is nothing more to do."""
        self._noted = keys, args
        return -1, 0, 0, 0


def install(app: Celery, settled: frozenset[str]) -> None:
    """Let an app that is given the URL of a Redis use this backend, with a settler for the parts of the named tasks.

    Those tasks need `SettledRequest` as their ``Request``.
    """
    name = f"{__name__}:{BatchingBackend.__name__}"
    app.loader.override_backends = {"redis": name, "rediss": name}
    BatchingBackend.settled = settled

    def count(parts: list[Part]) -> None:
        # The backend of the thread that calls, and of the broker that the app has by then.
        app.backend.count(parts)

    SettledRequest.settler = Settler(count)
