"""Resolved names are cached for a while. The cache is bounded."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from tasks.download import recent_hosts, resolver
from tasks.download.guard import Guard
from tasks.download.resolver import Resolver
from tasks.errors import ConnectError
from tests.waiting import PATIENCE


class CountingResolver:
    """A replacement of the system's resolver that counts its calls."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        """Answer with an address of this machine."""
        self.hosts.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def system_resolver(monkeypatch: pytest.MonkeyPatch) -> CountingResolver:
    """Replace the system's resolver."""
    counting = CountingResolver()
    monkeypatch.setattr(socket, "getaddrinfo", counting)
    return counting


def test_caches_an_answer(system_resolver: CountingResolver) -> None:
    """A second look-up of a name and port uses the cache. A look-up of another name or port does not use it."""
    names = Resolver()
    first = names.look_up("a.example", 80, 1.0)
    assert names.look_up("a.example", 80, 1.0) == first
    assert system_resolver.hosts == ["a.example"]
    assert names.look_up("a.example", 443, 1.0) != first
    names.look_up("b.example", 80, 1.0)
    assert system_resolver.hosts == ["a.example", "a.example", "b.example"]


def test_cached_answer_expires(system_resolver: CountingResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute a name is resolved again."""
    now = 0.0
    monkeypatch.setattr(recent_hosts, "monotonic", lambda: now)
    names = Resolver()
    names.look_up("a.example", 80, 1.0)
    now = 29.9
    names.look_up("a.example", 80, 1.0)
    assert len(system_resolver.hosts) == 1
    now = 30.0
    names.look_up("a.example", 80, 1.0)
    assert len(system_resolver.hosts) == 2


def test_drops_the_oldest_answers(system_resolver: CountingResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list with a million hosts does not fill the memory."""
    monkeypatch.setattr(resolver, "_MAX_NAMES", 2)
    names = Resolver()
    for host in ("a.example", "b.example", "c.example", "b.example", "a.example"):
        names.look_up(host, 80, 1.0)
    assert system_resolver.hosts == ["a.example", "b.example", "c.example", "a.example"]


def test_does_not_cache_failures(system_resolver: CountingResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was not found is resolved again."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    names = Resolver()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(socket.gaierror):
            names.look_up("a.example", 80, 1.0)
    assert names.look_up("a.example", 80, 1.0)


@pytest.mark.parametrize("ignored", [False, True], ids=["an error for both families", "no answer for both"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_one_family_is_enough(monkeypatch: pytest.MonkeyPatch, family: int, ignored: bool) -> None:
    """If a name server fails for one address family or ignores its query, the other family's addresses are used."""
    over = threading.Event()

    def answer(host: str, port: int, **options: int) -> list[Any]:
        if options["family"] == family:
            return [(family, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        if ignored:
            over.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert Resolver().look_up("a.example", 80, 0.2 if ignored else PATIENCE)[0][0] == family
    over.set()


def test_temporary_failure_of_one_family_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a name has no address of one family and the query for the other family failed, the error is temporary."""

    def answer(*_: object, family: int, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME if family == socket.AF_INET else socket.EAI_AGAIN, "fails")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(socket.gaierror) as caught:
        Resolver().look_up("a.example", 80, 1.0)
    assert caught.value.errno == socket.EAI_AGAIN


def test_resolves_a_nonexistent_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the answers for both address families are final, no further query is sent."""
    system_resolver = []

    def answer(*_: object, family: int, **__: object) -> list[Any]:
        system_resolver.append(family)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(socket.gaierror):
        Resolver().look_up("a.example", 80, 1.0)
    assert system_resolver == [socket.AF_UNSPEC]


def test_forgets_an_unreachable_address(system_resolver: CountingResolver) -> None:
    """If a host has moved to another address, the next attempt finds it at once, and does not wait half a minute."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    guard = Guard(["127.0.0.1"])
    for _ in range(2):
        with pytest.raises(ConnectError):
            guard.connect("a.example", port, 1.0)
    assert system_resolver.hosts == ["a.example", "a.example"]
