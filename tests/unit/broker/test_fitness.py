"""A worker requeues a task if the worker itself may be the cause; otherwise the image fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from tasks.broker import fitness, keys
from tasks.broker.fitness import Fitness, ImageJudge, QueueNames, RetryElsewhere
from tasks.errors import (
    ConnectError,
    DnsError,
    DnsUnavailableError,
    FetchError,
    FetchTimeoutError,
    HttpServerError,
    StorageError,
    TlsError,
)

_QUEUES = QueueNames("images.9", "shards.9")


class Fleet:
    """Simulate a worker under test, other live workers, a Redis and a clock."""

    def __init__(self) -> None:
        self.server = fakeredis.FakeRedis(decode_responses=True)
        self.now, self.paused, self.probed = 100.0, [], []  # type: tuple[float, list[float], list[str]]
        self.reachable = True
        self.fitness = Fitness(self.server, "me", _QUEUES, self.paused.append, self._probe)
        for run_id in ("run", "other-run"):
            self.server.set(keys.run(run_id), "{}")
        self.add("me")

    def add(self, name: str, queues: str = "images.9,shards.9") -> None:
        """Add a worker with these queues in its heartbeat."""
        self.server.sadd(keys.WORKERS, name)
        self.server.set(keys.heartbeat(name), queues)
        self.wait(2)

    def declare(self, name: str, kind: str = "network") -> None:
        """Let another worker report itself as unfit for the run."""
        self.server.hset(keys.unfit("run"), name, json.dumps({"kind": kind, "why": "broken"}))
        self.wait(2)

    def wait(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def unfit(self, run_id: str = "run") -> dict[str, Any]:
        """Return this worker's record of being unfit."""
        record = self.server.hget(keys.unfit(run_id), "me")
        return dict(json.loads(str(record))) if record else {}

    def fails(self, error: FetchError, url: str = "http://a/1.jpg", tried_by: tuple[str, ...] = ()) -> list[str] | None:
        """Run a failing task. Return the workers that tried a requeued task, or None if the image fails."""
        try:
            began = self.fitness.check("run", tried_by=tried_by)
            self.wait(0.1)
            self.fitness.judge(error, "run", url, began, tried_by)
        except RetryElsewhere as elsewhere:
            return elsewhere.tried_by
        return None

    def succeeds(self, run_id: str = "run", url: str = "http://a/1.jpg") -> None:
        """Run a successful task."""
        began = self.fitness.check(run_id)
        self.fitness.note_answer(run_id, url, True, began)

    def _probe(self, host: str, port: int) -> None:
        self.probed.append(f"{host}:{port}")
        if not self.reachable:
            raise ConnectError("no route")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Return a worker with one other worker."""
    found = Fleet()
    monkeypatch.setattr(fitness, "monotonic", lambda: found.now)
    found.add("other")
    yield found
    found.server.close()


def test_dead_host_fails_if_others_are_reachable(fleet: Fleet) -> None:
    """The network works if a host that responded before accepts a connection.

    A response proves only for a short time that the network works.
    """
    fleet.succeeds(url="http://good:81/1.jpg")
    assert [fleet.fails(DnsError("no such name"), f"http://dead{number}/") for number in range(4)] == [None] * 4
    assert fleet.probed == ["good:81"]
    fleet.wait(1)
    assert fleet.fails(ConnectError("refused"), "http://dead/") is None
    assert (fleet.probed, fleet.paused, fleet.unfit()) == (["good:81"] * 2, [], {})


def test_worker_without_network_requeues_its_failures(fleet: Fleet) -> None:
    """The first failed tasks go to another worker, and their messages name the workers that tried.

    After failures at three hosts, the worker is unfit.
    """
    for number in range(2):
        assert fleet.fails(DnsUnavailableError("no answer"), f"http://host{number}/") == ["me"]
    assert (fleet.unfit(), fleet.paused) == ({}, [])
    assert fleet.fails(DnsUnavailableError("no answer"), "http://host2/", ("third",)) == ["third", "me"]
    assert fleet.unfit() == {"kind": "network", "why": "dns: no answer"}
    assert fleet.paused == [1.0]
    assert fleet.fitness.troubles == ["dns: no answer"]


def test_unknown_names_make_no_worker_unfit(fleet: Fleet) -> None:
    """A name server that reports a name as unknown works. Another worker may still resolve the name."""
    assert [fleet.fails(DnsError("no such name"), f"http://dead{number}/") for number in range(9)] == [["me"]] * 9
    assert (fleet.unfit(), fleet.paused, fleet.fitness.troubles) == ({}, [], [])


def test_returned_task_is_requeued_untried(fleet: Fleet) -> None:
    """A worker that gets back its own requeued task waits a moment and requeues the task. It counts no failure."""
    for _ in range(10):
        assert fleet.fails(ConnectError("refused"), "http://dead/", ("me",)) == []
    assert (fleet.unfit(), fleet.paused) == ({}, [0.1] * 10)
    assert fleet.fails(ConnectError("refused"), "http://dead/", ("me", "other")) is None
    assert fleet.unfit() == {}


def test_one_host_that_keeps_failing_makes_a_worker_unfit(fleet: Fleet) -> None:
    """If a list has only one host, a worker that gets no response from this host becomes unfit."""
    assert [fleet.fails(ConnectError("no route")) for _ in range(8)] == [["me"]] * 8
    assert fleet.unfit()["kind"] == "network"


def test_network_that_breaks_during_a_run(fleet: Fleet) -> None:
    """A host's earlier responses prove nothing once the host is unreachable."""
    fleet.succeeds(url="http://good/1.jpg")
    fleet.reachable = False
    assert fleet.fails(DnsUnavailableError("no answer")) == ["me"]


@pytest.mark.parametrize(
    "change",
    [
        lambda fleet: fleet.declare("other"),
        lambda fleet: fleet.server.delete(keys.heartbeat("other")),
        lambda fleet: fleet.add("other", "images.8,shards.8"),
        lambda fleet: fleet.add("other", "shards.9"),
    ],
    ids=["unfit", "dead", "other version", "no images"],
)
@pytest.mark.parametrize(
    "error", [DnsUnavailableError("no answer"), StorageError("disk full")], ids=["network", "storage"]
)
def test_image_fails_without_another_able_worker(
    fleet: Fleet, change: Callable[[Fleet], object], error: FetchError
) -> None:
    """If no other worker can do better, the image fails. The worker keeps taking tasks."""
    change(fleet)
    fleet.wait(2)
    assert [fleet.fails(error, f"http://host{number}/") for number in range(5)] == [None] * 5
    assert fleet.unfit()
    assert fleet.paused == []


@pytest.mark.parametrize(
    "error", [DnsUnavailableError("no answer"), StorageError("in the way")], ids=["network", "storage"]
)
def test_image_fails_if_all_have_tried_it(fleet: Fleet, error: FetchError) -> None:
    """An image fails when every worker has tried it."""
    assert fleet.fails(error, tried_by=("other",)) is None


@pytest.mark.parametrize("error", [HttpServerError("HTTP 500", http_status=500), FetchError])
def test_failure_with_a_response_is_the_images_own(fleet: Fleet, error: Any) -> None:
    """A failure with a response is no evidence against the worker."""
    if error is FetchError:
        error = ConnectError("broke off", http_status=200)
    assert fleet.fails(error) is None
    assert fleet.probed == []


def test_untrusted_certificate(fleet: Fleet) -> None:
    """If another host's certificate was trusted, an untrusted certificate is the host's fault.

    A response over http proves nothing.
    """
    fleet.succeeds(url="http://good/1.jpg")
    assert fleet.fails(TlsError("not trusted"), "https://a/") == ["me"]
    fleet.succeeds(url="https://good/1.jpg")
    assert fleet.fails(TlsError("not trusted"), "https://b/") is None


def test_missing_response_is_the_hosts_fault_only_for_certain(fleet: Fleet) -> None:
    """Before any host has responded, and if no host can be reached now, a missing response may be this worker's fault.

    A broken proxy is never a host's fault, and a failed look-up is not for certain.
    """
    judge = ImageJudge(fleet.fitness, "run", "http://a/1.jpg", fleet.now, ())
    assert not judge.is_host_fault(FetchTimeoutError("sent nothing"))
    fleet.succeeds(url="http://good/1.jpg")
    fleet.wait(1)
    assert judge.is_host_fault(FetchTimeoutError("sent nothing"))
    assert not judge.is_host_fault(DnsUnavailableError("no answer"))
    proxy_gone = ConnectError("the proxy can't be reached")
    proxy_gone.is_worker_fault = True
    assert not judge.is_host_fault(proxy_gone)
    fleet.reachable = False
    fleet.wait(1)
    assert not judge.is_host_fault(FetchTimeoutError("sent nothing"))


def test_full_disk_affects_one_run(fleet: Fleet) -> None:
    """If a worker can't save images, it requeues the run's tasks, pauses, and works for other runs."""
    assert fleet.fails(StorageError("disk full")) == ["me"]
    assert (fleet.unfit(), fleet.paused) == ({"kind": "storage", "why": "storage: disk full"}, [1.0])
    with pytest.raises(RetryElsewhere, match="disk full") as caught:
        fleet.fitness.check("run")
    assert caught.value.tried_by == []
    assert fleet.fitness.check("other-run") == fleet.now
    assert fleet.unfit("other-run") == {}


def test_unfit_worker_tries_one_task_at_a_time_and_recovers(fleet: Fleet) -> None:
    """After each pause, the worker tries one task. If the task fails, the worker doubles the pause.

    If a task that started after the failure succeeds, the pauses end.
    """
    proxy_gone = ConnectError("the proxy can't be reached")
    proxy_gone.is_worker_fault = True
    early = fleet.fitness.check("run")
    assert fleet.fails(proxy_gone) == ["me"]
    fleet.fitness.note_answer("run", "http://a/", True, early)
    assert fleet.fitness.troubles
    for pause in (2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        fleet.wait(fleet.paused[-1])
        assert fleet.fails(proxy_gone) == ["me"]
        assert fleet.paused[-1] == pause
    fleet.wait(30)
    began = fleet.fitness.check("run")
    with pytest.raises(RetryElsewhere):
        fleet.fitness.check("run")
    fleet.fitness.note_answer("run", "http://a/", True, began)
    assert (fleet.unfit(), fleet.fitness.troubles) == ({}, [])
    assert fleet.fitness.check("run") == fleet.now


@pytest.mark.parametrize("emptied", [False, True])
def test_expired_heartbeats_of_all_workers_say_nothing(fleet: Fleet, emptied: bool) -> None:
    """After Redis was unreachable or emptied, no image fails before the other workers' heartbeats are back."""
    fleet.server.delete(keys.heartbeat("me"), keys.heartbeat("other"), *([keys.WORKERS] if emptied else []))
    assert fleet.fails(StorageError("disk full")) == ["me"]


def test_shard_is_collected_by_a_worker_that_can_save(fleet: Fleet) -> None:
    """A collect task can go to a worker without network, but not to a worker that can't save."""
    error = StorageError("disk full")
    fleet.declare("other", "network")
    with pytest.raises(RetryElsewhere):
        fleet.fitness.judge(error, "run", "", fleet.now, (), collects=True)
    fleet.declare("other", "storage")
    fleet.fitness.judge(error, "run", "", fleet.now, (), collects=True)


def test_ended_run_gets_no_new_keys(fleet: Fleet) -> None:
    """If a worker reports itself as unfit for a run that has ended, no key remains."""
    fleet.server.delete(keys.run("run"))
    assert fleet.fails(StorageError("disk full")) == ["me"]
    assert not fleet.server.exists(keys.unfit("run"))


def test_nothing_is_requeued_outside_of_a_worker() -> None:
    """Failures are not judged outside of a worker process, for instance in a test."""
    server: Any = None
    alone = Fitness(server, "", _QUEUES, lambda _: None, None)
    alone.judge(StorageError("disk full"), "run", "", alone.check("run"), ())
