"""The chord counter: Celery's Redis backend, which here waits for a Redis that is away.

Celery tries to count a finished part once. A Redis that restarts at that moment would leave its chord one part short
for ever, though the image is saved.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend

from tasks.away import patiently


class PatientBackend(RedisBackend):  # type: ignore[misc]
    """Celery's backend; a part that could not be counted is counted when Redis is back."""

    def on_chord_part_return(self, *arguments: Any, **options: Any) -> Any:
        """Count a part, once: Celery knows parts by their task's id, so a second try changes nothing."""
        count = super().on_chord_part_return
        return patiently(lambda: count(*arguments, **options))


def install(app: Celery) -> None:
    """Let an app that is given the URL of a Redis use this backend."""
    name = f"{__name__}:{PatientBackend.__name__}"
    app.loader.override_backends = {"redis": name, "rediss": name}
