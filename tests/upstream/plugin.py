"""The pytest plugin that runs the tests of kombu and Celery with our transport and backend.

Each worker process of pytest-xdist has its own Redis, so tests that use a Redis run in parallel. `_BINDINGS` has the
replacements of each suite; `tests.upstream.expected` lists the expected failures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery.app.backends
import celery.backends.redis
import kombu.transport.redis
import pytest
from celery import current_app
from celery.app.task import Task
from kombu.entity import Queue
from kombu.utils import eventio

from tasks.broker import ack_batcher, backend, poller, qos, transport
from tasks.broker.backend import BatchingBackend, ChordPart
from tests.upstream.expected import FAILING

#: The class that tests Celery's Lua script in a Redis written in Python. This class runs the script itself, not a
#: translation into Python.
_SCRIPT_TESTS = "test_RedisBackend_chord_part_script"
#: Tests that were written for Celery's in-memory result store. They still use our broker.
_IN_MEMORY = ("t/unit/backends/test_redis.py", "t/unit/tasks/test_chord.py::test_unlock_chord_task")
#: Tests that wait for minutes to show that something does not happen.
_LONG = (
    "test_disabling_flag_allow_error_cb_on_chord_header",
    "test_enabling_flag_allow_error_cb_on_chord_header",
    "test_flag_allow_error_cb_on_chord_header_on_upgraded_chord",
    "test_error_propagates_from_chord",
)
#: The number of tasks that Celery's test worker runs at a time.
_SLOTS = 4
#: The folder of the suites' tests.
_FOLDER = "t/"
#: The test results that pytest distinguishes.
_KINDS = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "rerun")
_SUITE = pytest.StashKey[str]()
_REDIS = pytest.StashKey[str]()


class _AllNames(frozenset[str]):
    """The names of all tasks."""

    def __contains__(self, _: object) -> bool:
        return True


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the runner's options."""
    group = parser.getgroup("upstream")
    group.addoption("--suite", required=True, help="the suite to run")
    group.addoption("--redis-ports", required=True, help="the ports of Redis servers, one for each worker process")
    group.addoption("--outcomes", required=True, type=Path, help="the file for the numbers of test results")
    group.addoption("--theirs", action="store_true", help="run the tests over kombu's and Celery's own code")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Install our replacements before the first module of a suite is imported."""
    options = early_config.known_args_namespace
    ports = options.redis_ports.split(",")
    port = ports[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))]
    url = f"redis://127.0.0.1:{port}/0"
    os.environ.update(REDIS_HOST="127.0.0.1", REDIS_PORT=port, REDIS_6379_TCP=port, TEST_BROKER=url, TEST_BACKEND=url)
    early_config.stash[_SUITE], early_config.stash[_REDIS] = options.suite, url
    # kombu's unit tests replace this name before they import the modules that use it. Here, these modules are already
    # imported.
    kombu.transport.redis.poll = lambda: eventio.poll()  # noqa: PLW0108
    if not options.theirs:
        _BINDINGS[options.suite]()


def _bind_kombu_unit() -> None:
    """Make the names in kombu's module refer to our classes, because kombu's tests subclass and patch these names."""
    _bind_kombu_integration()
    for name, ours in (
        ("QoS", qos.QoS),
        ("MultiChannelPoller", poller.Poller),
        ("Channel", transport.Channel),
        ("Transport", transport.Transport),
    ):
        setattr(kombu.transport.redis, name, ours)


def _bind_kombu_integration() -> None:
    """Make the tests' URLs use our transport."""
    transport.install()


def _bind_celery_unit() -> None:
    """Make the name and the URLs of Celery's Redis backend refer to our backend, and make Celery use our transport."""
    transport.install()
    celery.backends.redis.RedisBackend = BatchingBackend
    name = f"{backend.__name__}:{BatchingBackend.__name__}"
    celery.app.backends.BACKEND_ALIASES.update(redis=name, rediss=name)


def _bind_celery_integration() -> None:
    """Let our ack batcher count the chord part of every task and acknowledge the task's message."""
    _bind_celery_unit()
    transport.install(ack_batcher.running_task_ids, ack_batcher.finish_pending)
    BatchingBackend.batched_tasks = _AllNames()
    # The app and its backend belong to the calling test and thread.
    ack_batcher.BatchedRequest.ack_batcher = ack_batcher.AckBatcher(lambda parts: current_app.backend.count(parts))  # noqa: PLW0108
    Task.Request = f"{ack_batcher.__name__}:{ack_batcher.BatchedRequest.__name__}"


_BINDINGS: dict[str, Callable[[], None]] = {
    "kombu-unit": _bind_kombu_unit,
    "kombu-integration": _bind_kombu_integration,
    "celery-unit": _bind_celery_unit,
    "celery-backend": _bind_celery_unit,
    "celery-integration": _bind_celery_integration,
}


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Remove the suites' own choice of broker, backend and pool, because the fixtures below replace it."""
    if getattr(plugin, "__name__", "") in ("t.unit.conftest", "t.integration.conftest"):
        for name in ("celery_config", "celery_worker_pool"):
            vars(plugin).pop(name, None)


@pytest.fixture(scope="session")
def celery_config(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Return the settings of Celery's test apps, in which Redis replaces memory and RabbitMQ."""
    url = pytestconfig.stash[_REDIS]
    redis = {"broker_url": url, "result_backend": url}
    if pytestconfig.stash[_SUITE] == "celery-unit":
        name = "testcelery"
        queue = {f"task_default_{kind}": name for kind in ("queue", "exchange", "routing_key")}
        return {**redis, **queue, "task_queues": (Queue(name, routing_key=name),), "accept_content": ("json", "pickle")}
    # A task is acknowledged after it has run, as in imagefleet.
    return {**redis, "result_extended": True, "task_create_missing_queues": False, "task_acks_late": True}


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """Return imagefleet's pool for Celery's test worker."""
    return "threads"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Return the concurrency of Celery's test worker."""
    return {"concurrency": _SLOTS}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of Celery's Lua script again with our script."""
    if metafunc.cls is not None and metafunc.cls.__name__ == _SCRIPT_TESTS and not metafunc.config.option.theirs:
        metafunc.parametrize("_counting", ["celery", "count_chord_parts.lua"], indirect=True)


@pytest.fixture(autouse=True)
def _counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count each chord part without a delay if the test asks for it, because it checks the result immediately."""
    if getattr(request, "param", "celery") == "celery":
        return

    class ImmediateBatcher:
        """Count in the calling thread, because the tests' backend belongs to this thread."""

        def add_part(self, part: ChordPart) -> None:
            # The tests' requests don't name their task.
            part.request.task = "foobarbaz"
            request.instance.b.count([part])

    monkeypatch.setattr(BatchingBackend, "batched_tasks", _AllNames())
    monkeypatch.setattr(ack_batcher.BatchedRequest, "ack_batcher", ImmediateBatcher(), raising=False)


@pytest.fixture(autouse=True)
def _clear_pending_acks() -> Iterator[None]:
    """Drop a test's pending acknowledgements, so that they do not reach the Redis of another test, which is a mock."""
    yield
    transport.Channel._all_pending.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that must fail, and the tests that use another result store."""
    failing = {} if config.option.theirs else FAILING[config.option.suite]
    reasons = {name: reason for reason, names in failing.items() for name in names}
    for item in items:
        if item.nodeid.startswith(_IN_MEMORY):
            item.add_marker(pytest.mark.celery(result_backend="cache+memory://"))
        name = item.nodeid.removeprefix(_FOLDER)
        reason = reasons.get(name) or reasons.get(name.partition("[")[0])
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    # Each process gets two tests at first: a long test and another test.
    long = [item for item in items if item.name in _LONG]
    others = [item for item in items if item.name not in _LONG]
    items[:] = [*(item for pair in zip(long, others, strict=False) for item in pair), *others[len(long) :]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the numbers of test results, and the expected failures.

    A test is `marked` if its authors expect that it can fail.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    # If both a test and the clean-up after the test fail, the test has two reports.
    names = {kind: {report.nodeid for report in reporter.stats.get(kind, [])} for kind in _KINDS}
    expected = {
        report.nodeid
        for report in reporter.stats.get("xfailed", [])
        if report.wasxfail in FAILING[session.config.option.suite]
    }
    outcomes = {
        "passed": len(names["passed"]),
        "expected": sorted(name.removeprefix(_FOLDER) for name in expected),
        "failed": sorted(names["failed"] | names["error"]),
        "skipped": len(names["skipped"]),
        "marked": len((names["xfailed"] | names["xpassed"]) - expected),
        "rerun": sorted(names["rerun"]),
    }
    session.config.option.outcomes.write_text(json.dumps(outcomes))
