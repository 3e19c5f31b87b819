"""The suites: groups of kombu's and Celery's own tests that run over our code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The number of test results of each kind in each suite. docs/upstream-tests.md shows these numbers, and each run must
#: match them.
COUNTS = Path(__file__).with_name("counts.json")


@dataclass(frozen=True)
class Suite:
    """A suite: tests of one distribution that run over the same parts of our code."""

    name: str
    distribution: str
    #: The pytest configuration file of the suite's tests.
    config: str
    #: The modules of the tests, in the folder ``t/``.
    modules: tuple[str, ...]
    #: The number of processes. A process needs little CPU time, because the tests mostly wait. If the tests of a suite
    #: depend on earlier tests, the suite has one process.
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
