"""The suites: which of kombu's and Celery's own tests run over ours, and together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: How many tests of each suite end how; docs/upstream-tests.md shows it, and each run has to have it so.
COUNTS = Path(__file__).with_name("counts.json")


@dataclass(frozen=True)
class Suite:
    """Tests of one distribution that meet ours in one way."""

    name: str
    distribution: str
    #: pytest's settings for them.
    config: str
    #: Their modules, in the folder ``t/``.
    modules: tuple[str, ...]
    #: How many processes share them, which wait most of the time; one where tests lean on those before them.
    processes: int


SUITES = (
    Suite("kombu-unit", "kombu", "setup.cfg", ("unit/transport/test_redis.py", "unit/transport/virtual"), 1),
    Suite(
        "kombu-integration",
        "kombu",
        "setup.cfg",
        ("integration/test_redis.py", "integration/test_redis_brpop_qos.py"),
        3,
    ),
    Suite(
        "celery-unit",
        "celery",
        "pyproject.toml",
        ("unit/backends/test_redis.py", "unit/tasks/test_chord.py", "unit/tasks/test_canvas.py"),
        1,
    ),
    Suite("celery-backend", "celery", "pyproject.toml", ("integration/test_redis_backend.py",), 1),
    Suite("celery-integration", "celery", "pyproject.toml", ("integration/test_canvas.py",), 6),
)
