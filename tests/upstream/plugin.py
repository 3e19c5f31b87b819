"""The pytest plugin by which kombu's and Celery's own tests meet our transport and backend in place of theirs.

A worker process of pytest-xdist has a Redis of its own, so the tests that use one run side by side. What each suite
binds, and how, is in `_BINDINGS`; what is expected to fail, in `tests.upstream.expected`.
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

from tasks import backend, settle, transport
from tasks.backend import BatchingBackend, Part
from tests.upstream.expected import FAILING

#: The class whose tests run Celery's script, in a Redis made of Python, and not a copy of it in Python.
_SCRIPT_TESTS = "test_RedisBackend_chord_part_script"
#: Tests that are written for a result store of Celery's in memory; the broker is ours all the same.
_IN_MEMORY = ("t/unit/backends/test_redis.py", "t/unit/tasks/test_chord.py::test_unlock_chord_task")
#: Tests that wait for minutes until something has not come.
_LONG = (
    "test_disabling_flag_allow_error_cb_on_chord_header",
    "test_enabling_flag_allow_error_cb_on_chord_header",
    "test_flag_allow_error_cb_on_chord_header_on_upgraded_chord",
    "test_error_propagates_from_chord",
)
#: How many tasks Celery's test worker runs at a time.
_SLOTS = 4
#: Where the suites' tests are.
_FOLDER = "t/"
#: The ends of tests that pytest tells apart.
_KINDS = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "rerun")
_SUITE = pytest.StashKey[str]()
_REDIS = pytest.StashKey[str]()


class _Every(frozenset[str]):
    """The names of all tasks."""

    def __contains__(self, _: object) -> bool:
        return True


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take what the runner says."""
    group = parser.getgroup("upstream")
    group.addoption("--suite", required=True, help="which suite this is")
    group.addoption("--redis-ports", required=True, help="the ports of Redis servers, one for each worker process")
    group.addoption("--outcomes", required=True, type=Path, help="the file for how many tests ended how")
    group.addoption("--theirs", action="store_true", help="run the tests over kombu's and Celery's own code")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Bind ours before the first module of a suite is imported."""
    options = early_config.known_args_namespace
    ports = options.redis_ports.split(",")
    port = ports[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))]
    url = f"redis://127.0.0.1:{port}/0"
    os.environ.update(REDIS_HOST="127.0.0.1", REDIS_PORT=port, REDIS_6379_TCP=port, TEST_BROKER=url, TEST_BACKEND=url)
    early_config.stash[_SUITE], early_config.stash[_REDIS] = options.suite, url
    # kombu's unit tests replace this before they import what uses it, which is too late here.
    kombu.transport.redis.poll = lambda: eventio.poll()  # noqa: PLW0108
    if not options.theirs:
        _BINDINGS[options.suite]()


def _bind_kombu_unit() -> None:
    """Let the names of kombu's module, which its tests subclass and patch, stand for ours."""
    _bind_kombu_integration()
    for name, ours in (
        ("QoS", transport.QoS),
        ("MultiChannelPoller", transport.Poller),
        ("Channel", transport.Channel),
        ("Transport", transport.Transport),
    ):
        setattr(kombu.transport.redis, name, ours)


def _bind_kombu_integration() -> None:
    """Have the tests' URLs use our transport."""
    transport.install()


def _bind_celery_unit() -> None:
    """Let the name of Celery's Redis backend, and the URLs of one, stand for ours; ours is the transport, too."""
    transport.install()
    celery.backends.redis.RedisBackend = BatchingBackend
    name = f"{backend.__name__}:{BatchingBackend.__name__}"
    celery.app.backends.BACKEND_ALIASES.update(redis=name, rediss=name)


def _bind_celery_integration() -> None:
    """Have the parts of every task counted, and their messages acknowledged, by our settler."""
    _bind_celery_unit()
    transport.install(settle.begun, settle.finish)
    BatchingBackend.settled = _Every()
    # The app and its backend are those of the test and the thread that it is called in.
    settle.SettledRequest.settler = settle.Settler(lambda parts: current_app.backend.count(parts))  # noqa: PLW0108
    Task.Request = f"{settle.__name__}:{settle.SettledRequest.__name__}"


_BINDINGS: dict[str, Callable[[], None]] = {
    "kombu-unit": _bind_kombu_unit,
    "kombu-integration": _bind_kombu_integration,
    "celery-unit": _bind_celery_unit,
    "celery-backend": _bind_celery_unit,
    "celery-integration": _bind_celery_integration,
}


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Let the suites' own choice of broker, backend and pool make way for the fixtures below."""
    if getattr(plugin, "__name__", "") in ("t.unit.conftest", "t.integration.conftest"):
        for name in ("celery_config", "celery_worker_pool"):
            vars(plugin).pop(name, None)


@pytest.fixture(scope="session")
def celery_config(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Give the settings of Celery's test apps: theirs, with Redis where they have memory or RabbitMQ."""
    url = pytestconfig.stash[_REDIS]
    redis = {"broker_url": url, "result_backend": url}
    if pytestconfig.stash[_SUITE] == "celery-unit":
        name = "testcelery"
        queue = {f"task_default_{kind}": name for kind in ("queue", "exchange", "routing_key")}
        return {**redis, **queue, "task_queues": (Queue(name, routing_key=name),), "accept_content": ("json", "pickle")}
    # As in imagefleet, a task is acknowledged when it is done.
    return {**redis, "result_extended": True, "task_create_missing_queues": False, "task_acks_late": True}


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """Give the pool of Celery's test worker: imagefleet's."""
    return "threads"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Give the size of Celery's test worker."""
    return {"concurrency": _SLOTS}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of Celery's script over ours, too."""
    if metafunc.cls is not None and metafunc.cls.__name__ == _SCRIPT_TESTS and not metafunc.config.option.theirs:
        metafunc.parametrize("_counting", ["celery", "count.lua"], indirect=True)


@pytest.fixture(autouse=True)
def _counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count parts by ours at once, if a test asks for that: it looks at what stands right after."""
    if getattr(request, "param", "celery") == "celery":
        return

    class Settler:
        """Counts in the thread that calls, where the tests' backend is."""

        def part(self, part: Part) -> None:
            # The tests' requests do not say of which task they are.
            part.request.task = "foobarbaz"
            request.instance.b.count([part])

    monkeypatch.setattr(BatchingBackend, "settled", _Every())
    monkeypatch.setattr(settle.SettledRequest, "settler", Settler(), raising=False)


@pytest.fixture(autouse=True)
def _nothing_owed() -> Iterator[None]:
    """Let no test's Redis, which is a mock, be told what another's is owed."""
    yield
    transport.Channel._all_owed.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is expected to fail, which it has to, and what has another result store."""
    failing = {} if config.option.theirs else FAILING[config.option.suite]
    reasons = {name: reason for reason, names in failing.items() for name in names}
    for item in items:
        if item.nodeid.startswith(_IN_MEMORY):
            item.add_marker(pytest.mark.celery(result_backend="cache+memory://"))
        name = item.nodeid.removeprefix(_FOLDER)
        reason = reasons.get(name) or reasons.get(name.partition("[")[0])
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    # Each process is given two tests at first: one long one and another.
    long = [item for item in items if item.name in _LONG]
    others = [item for item in items if item.name not in _LONG]
    items[:] = [*(item for pair in zip(long, others, strict=False) for item in pair), *others[len(long) :]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write how many tests ended how, and which failed as expected; what their own authors doubt is `marked`."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    # A test that fails, and leaves something behind that fails, has two reports.
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
