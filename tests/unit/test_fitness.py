"""When a worker hands a task to others, and when an image fails by its own fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from tasks import fitness, keys
from tasks.errors import ConnectFailed, DnsFailed, DnsUnavailable, FetchError, HttpFailed, StorageFailed, TlsFailed
from tasks.fitness import Fitness, HandedOver, Queues

_QUEUES = Queues("images.9", "shards.9")


class Fleet:
    """A worker under test beside others that are alive, at a Redis and with a clock of its own."""

    def __init__(self) -> None:
        self.server = fakeredis.FakeRedis(decode_responses=True)
        self.now, self.paused, self.probed = 100.0, [], []  # type: tuple[float, list[float], list[str]]
        self.reachable = True
        self.fitness = Fitness(self.server, "me", _QUEUES, self.paused.append, self._probe)
        for run_id in ("run", "other-run"):
            self.server.set(keys.run(run_id), "{}")
        self.add("me")

    def add(self, name: str, queues: str = "images.9,shards.9") -> None:
        """Add a worker that takes from queues, as its sign of life says."""
        self.server.sadd(keys.WORKERS, name)
        self.server.set(keys.alive(name), queues)
        self.wait(2)

    def declare(self, name: str, kind: str = "network") -> None:
        """Have another worker call itself unfit for the run."""
        self.server.hset(keys.unfit("run"), name, json.dumps({"kind": kind, "why": "broken"}))
        self.wait(2)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def unfit(self, run_id: str = "run") -> dict[str, Any]:
        """What Redis has of this worker."""
        said = self.server.hget(keys.unfit(run_id), "me")
        return dict(json.loads(str(said))) if said else {}

    def fails(self, error: FetchError, url: str = "http://a/1.jpg", tried_by: tuple[str, ...] = ()) -> list[str] | None:
        """Do a task that fails; return who has tried it if it is handed over, and None if the image fails."""
        try:
            began = self.fitness.check("run", tried_by=tried_by)
            self.wait(0.1)
            self.fitness.judge(error, "run", url, began, tried_by)
        except HandedOver as handed:
            return handed.tried_by
        return None

    def succeeds(self, run_id: str = "run", url: str = "http://a/1.jpg") -> None:
        """Do a task that succeeds."""
        began = self.fitness.check(run_id)
        self.fitness.note_answer(run_id, url, True, began)

    def _probe(self, host: str, port: int) -> None:
        self.probed.append(f"{host}:{port}")
        if not self.reachable:
            raise ConnectFailed("no route")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Give a worker with one other beside it."""
    found = Fleet()
    monkeypatch.setattr(fitness, "monotonic", lambda: found.now)
    found.add("other")
    yield found
    found.server.close()


def test_dead_host_fails_at_a_worker_that_reaches_others(fleet: Fleet) -> None:
    """One connection to a host that has answered shows that the network is in order, and is enough for a moment."""
    fleet.succeeds(url="http://good:81/1.jpg")
    assert [fleet.fails(DnsFailed("no such name"), f"http://dead{number}/") for number in range(4)] == [None] * 4
    assert fleet.probed == ["good:81"]
    fleet.wait(1)
    assert fleet.fails(ConnectFailed("refused"), "http://dead/") is None
    assert (fleet.probed, fleet.paused, fleet.unfit()) == (["good:81"] * 2, [], {})


def test_failure_of_a_worker_that_reaches_nobody_is_handed_over(fleet: Fleet) -> None:
    """The first failures go to another worker, who learns who has tried them; after three hosts the worker is unfit."""
    for number in range(2):
        assert fleet.fails(DnsUnavailable("no answer"), f"http://host{number}/") == ["me"]
    assert (fleet.unfit(), fleet.paused) == ({}, [])
    assert fleet.fails(DnsUnavailable("no answer"), "http://host2/", ("third",)) == ["third", "me"]
    assert fleet.unfit() == {"kind": "network", "why": "dns: no answer"}
    assert fleet.paused == [1.0]
    assert fleet.fitness.troubles == ["dns: no answer"]


def test_names_that_do_not_exist_make_no_worker_unfit(fleet: Fleet) -> None:
    """A name server that says so works; another worker may know better all the same."""
    assert [fleet.fails(DnsFailed("no such name"), f"http://dead{number}/") for number in range(9)] == [["me"]] * 9
    assert (fleet.unfit(), fleet.paused, fleet.fitness.troubles) == ({}, [], [])


def test_task_that_comes_back_is_not_tried_again(fleet: Fleet) -> None:
    """While another worker has not tried it, a worker hands its own task on after a moment, and counts nothing."""
    for _ in range(10):
        assert fleet.fails(ConnectFailed("refused"), "http://dead/", ("me",)) == []
    assert (fleet.unfit(), fleet.paused) == ({}, [0.1] * 10)
    assert fleet.fails(ConnectFailed("refused"), "http://dead/", ("me", "other")) is None
    assert fleet.unfit() == {}


def test_one_host_is_enough_if_it_fails_again_and_again(fleet: Fleet) -> None:
    """A list of one host makes a worker unfit that has no answer from it."""
    assert [fleet.fails(ConnectFailed("no route")) for _ in range(8)] == [["me"]] * 8
    assert fleet.unfit()["kind"] == "network"


def test_network_that_breaks_in_the_middle_of_a_run(fleet: Fleet) -> None:
    """Hosts that have answered before are no proof once they can't be connected to."""
    fleet.succeeds(url="http://good/1.jpg")
    fleet.reachable = False
    assert fleet.fails(DnsUnavailable("no answer")) == ["me"]


@pytest.mark.parametrize(
    "change",
    [
        lambda fleet: fleet.declare("other"),
        lambda fleet: fleet.server.delete(keys.alive("other")),
        lambda fleet: fleet.add("other", "images.8,shards.8"),
        lambda fleet: fleet.add("other", "shards.9"),
    ],
    ids=["unfit", "dead", "other version", "no images"],
)
@pytest.mark.parametrize("error", [DnsUnavailable("no answer"), StorageFailed("disk full")], ids=["network", "storage"])
def test_image_fails_if_nobody_else_can(fleet: Fleet, change: Callable[[Fleet], object], error: FetchError) -> None:
    """Without another worker that may succeed, the image fails, and this worker goes on taking tasks."""
    change(fleet)
    fleet.wait(2)
    assert [fleet.fails(error, f"http://host{number}/") for number in range(5)] == [None] * 5
    assert fleet.unfit()
    assert fleet.paused == []


@pytest.mark.parametrize(
    "error", [DnsUnavailable("no answer"), StorageFailed("in the way")], ids=["network", "storage"]
)
def test_image_fails_if_all_have_tried_it(fleet: Fleet, error: FetchError) -> None:
    """An image that every worker has tried fails at the last one."""
    assert fleet.fails(error, tried_by=("other",)) is None


@pytest.mark.parametrize("error", [HttpFailed("HTTP 500", http_status=500), FetchError])
def test_what_a_server_has_answered_is_the_images_own(fleet: Fleet, error: Any) -> None:
    """A failure with an answer is no doubt about the worker."""
    if error is FetchError:
        error = ConnectFailed("broke off", http_status=200)
    assert fleet.fails(error) is None
    assert fleet.probed == []


def test_certificates(fleet: Fleet) -> None:
    """A bad certificate is the host's once another one was trusted; a plain answer says nothing of that."""
    fleet.succeeds(url="http://good/1.jpg")
    assert fleet.fails(TlsFailed("not trusted"), "https://a/") == ["me"]
    fleet.succeeds(url="https://good/1.jpg")
    assert fleet.fails(TlsFailed("not trusted"), "https://b/") is None


def test_full_disk_is_of_one_run(fleet: Fleet) -> None:
    """A worker that can't save hands the run's tasks back at once, takes nothing for a while, and does other runs."""
    assert fleet.fails(StorageFailed("disk full")) == ["me"]
    assert (fleet.unfit(), fleet.paused) == ({"kind": "storage", "why": "storage: disk full"}, [1.0])
    with pytest.raises(HandedOver, match="disk full") as caught:
        fleet.fitness.check("run")
    assert caught.value.tried_by == []
    assert fleet.fitness.check("other-run") == fleet.now
    assert fleet.unfit("other-run") == {}


def test_unfit_worker_tries_one_task_at_a_time_and_recovers(fleet: Fleet) -> None:
    """It tries one task after a pause that doubles, and is fit again when one is done that began after the trouble."""
    proxy_gone = ConnectFailed("the proxy can't be reached")
    proxy_gone.of_worker = True
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
    with pytest.raises(HandedOver):
        fleet.fitness.check("run")
    fleet.fitness.note_answer("run", "http://a/", True, began)
    assert (fleet.unfit(), fleet.fitness.troubles) == ({}, [])
    assert fleet.fitness.check("run") == fleet.now


@pytest.mark.parametrize("emptied", [False, True])
def test_signs_of_life_that_have_all_expired_say_nothing(fleet: Fleet, emptied: bool) -> None:
    """After a Redis that was away, or came back empty, no image fails before the other workers are heard again."""
    fleet.server.delete(keys.alive("me"), keys.alive("other"), *([keys.WORKERS] if emptied else []))
    assert fleet.fails(StorageFailed("disk full")) == ["me"]


def test_shard_is_collected_by_who_can_save(fleet: Fleet) -> None:
    """For a task that only saves, another worker is able whose network fails, and not one that can't save."""
    error = StorageFailed("disk full")
    fleet.declare("other", "network")
    with pytest.raises(HandedOver):
        fleet.fitness.judge(error, "run", "", fleet.now, (), collects=True)
    fleet.declare("other", "storage")
    fleet.fitness.judge(error, "run", "", fleet.now, (), collects=True)


def test_run_that_has_ended_gets_no_keys_again(fleet: Fleet) -> None:
    """What a worker says of itself for a run that is over leaves no key."""
    fleet.server.delete(keys.run("run"))
    assert fleet.fails(StorageFailed("disk full")) == ["me"]
    assert not fleet.server.exists(keys.unfit("run"))


def test_without_a_worker_nothing_is_handed_over() -> None:
    """A process that is no worker's, as of a test, judges nothing."""
    server: Any = None
    alone = Fitness(server, "", _QUEUES, lambda _: None, None)
    alone.judge(StorageFailed("disk full"), "run", "", alone.check("run"), ())
