"""Resolved names are cached for a while. The cache is bounded."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks.download import recent_hosts, resolver
from tasks.download.guard import Guard
from tasks.download.lookups import lookups
from tasks.download.resolver import Resolver
from tasks.errors import ConnectError, DnsUnavailableError
from tests.waiting import PATIENCE, wait_for

#: An answer of the system's resolver for a name without a port.
FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


class CountingResolver:
    """A replacement of the system's resolver that counts its calls."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def __call__(self, host: str, port: int | None, **_: Any) -> list[Any]:
        """Answer with an address of this machine."""
        self.hosts.append(host)
        return list(FOUND)


@pytest.fixture
def system_resolver(monkeypatch: pytest.MonkeyPatch) -> CountingResolver:
    """Replace the system's resolver."""
    counting = CountingResolver()
    monkeypatch.setattr(socket, "getaddrinfo", counting)
    return counting


def test_caches_an_answer(system_resolver: CountingResolver) -> None:
    """A name is looked up once, for all ports. A look-up of another name does not use this answer."""
    names = Resolver()
    assert [names.look_up("a.example", port, 1.0)[0][4] for port in (80, 80, 443)] == [
        ("127.0.0.1", 80),
        ("127.0.0.1", 80),
        ("127.0.0.1", 443),
    ]
    names.look_up("b.example", 80, 1.0)
    assert system_resolver.hosts == ["a.example", "b.example"]


def test_keeps_the_scope_of_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the port of an answer is replaced."""
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 2))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert Resolver().look_up("a.example", 443, 1.0)[0][4] == ("fe80::1", 443, 0, 2)


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


@pytest.mark.parametrize(
    ("code", "seconds"), [(socket.EAI_AGAIN, 0.2), (socket.EAI_NONAME, 10.0), (socket.EAI_NODATA, 10.0)]
)
def test_caches_a_failure_for_a_short_time(monkeypatch: pytest.MonkeyPatch, code: int, seconds: float) -> None:
    """A failed name is not asked again for a while: shorter than the first retry's wait if the failure is temporary.

    A name that begins to resolve is found after this time.
    """
    now, asked, errors = 100.0, 0, [socket.gaierror(code, "fails")]

    def answer(*_: object, **__: object) -> list[Any]:
        nonlocal asked
        asked += 1
        if errors:
            raise errors[0]
        return FOUND

    monkeypatch.setattr(recent_hosts, "monotonic", lambda: now)
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    names = Resolver()
    raised = []
    for _ in range(3):
        with pytest.raises(socket.gaierror) as caught:
            names.look_up("a.example", 80, 5.0)
        raised.append(caught.value)
        now += seconds / 2 - 0.01
    assert {error.args for error in raised} == {(code, "fails")}
    assert len({id(error) for error in raised}) == 3
    before, now = asked, now + 0.1
    errors.clear()
    assert names.look_up("a.example", 80, 5.0)
    assert asked == before + 1


def test_slots_share_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """If many slots need the same name at once, the system is asked once."""
    slots, asked, go = 16, [], threading.Event()

    def answer(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        assert go.wait(PATIENCE)
        return FOUND

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    names = Resolver()
    with ThreadPoolExecutor(slots) as pool:
        found = [pool.submit(names.look_up, "a.example", port, PATIENCE) for port in range(slots)]
        wait_for(lambda: len(lookups()._open["a.example", socket.AF_UNSPEC].listeners) == slots)
        go.set()
        assert [future.result()[0][4][1] for future in found] == list(range(slots))
    assert asked == ["a.example"]


def test_joins_an_old_look_up_for_a_part_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another slot has waited for a name in vain, the next slot waits only for a quarter of the timeout."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [over.wait(PATIENCE)])
    names, waited = Resolver(), []
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(DnsUnavailableError, match=r"a\.example was not resolved within 0\.8 s"):
            names.look_up("a.example", 80, 0.8)
        waited.append(time.monotonic() - began)
    over.set()
    assert waited[0] >= 0.8
    assert 0.2 <= waited[1] < 0.6


def test_uses_an_answer_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of an abandoned look-up is cached, so a later slot does not wait again."""
    late, names = threading.Event(), Resolver()

    def answer(*_: object, family: int, **__: object) -> list[Any]:
        late.wait(PATIENCE)
        if family == socket.AF_UNSPEC:
            return FOUND
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(DnsUnavailableError):
        names.look_up("a.example", 80, 0.05)
    late.set()
    wait_for(lambda: names._known("a.example") is not None)
    assert names.look_up("a.example", 80, 0.0)


def test_looks_up_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up ahead reports its end and caches the answer. A known name and an address need none."""
    ended, names = threading.Event(), Resolver()
    asked = CountingResolver()
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    assert names.look_up_ahead("a.example", ended.set)
    assert ended.wait(PATIENCE)
    assert not any(names.look_up_ahead(host, ended.set) for host in ("a.example", "192.0.2.1", "::1"))
    assert names.look_up("a.example", 443, 0.0)[0][4] == ("127.0.0.1", 443)
    assert asked.hosts == ["a.example"]


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "later"), UnicodeError("label too long")])
def test_failure_ahead_is_not_final(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """After a failed look-up ahead, the slot asks again. So it can ask for each address family separately."""
    ended, names = threading.Event(), Resolver()

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", fail)
        assert names.look_up_ahead("a.example", ended.set)
        assert ended.wait(PATIENCE)
    monkeypatch.setattr(socket, "getaddrinfo", CountingResolver())
    assert names.look_up("a.example", 80, PATIENCE)


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
