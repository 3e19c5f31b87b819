"""Names are looked up once in a while, and not for ever."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from tasks import resolver
from tasks.errors import ConnectFailed
from tasks.guard import Guard
from tasks.resolver import Resolver
from tests.conditions import PATIENCE


class Asked:
    """A resolver of the system that counts."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        """Answer with an address of this machine."""
        self.hosts.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Stand in for the system's resolver."""
    counting = Asked()
    monkeypatch.setattr(socket, "getaddrinfo", counting)
    return counting


def test_answer_is_used_again(asked: Asked) -> None:
    """The second look-up of a name asks nobody; another name, or another port, does."""
    names = Resolver()
    first = names.look_up("a.example", 80, 1.0)
    assert names.look_up("a.example", 80, 1.0) == first
    assert asked.hosts == ["a.example"]
    assert names.look_up("a.example", 443, 1.0) != first
    names.look_up("b.example", 80, 1.0)
    assert asked.hosts == ["a.example", "a.example", "b.example"]


def test_answer_grows_old(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute a name is looked up anew."""
    now = 0.0
    monkeypatch.setattr(resolver, "monotonic", lambda: now)
    names = Resolver()
    names.look_up("a.example", 80, 1.0)
    now = 29.9
    names.look_up("a.example", 80, 1.0)
    assert len(asked.hosts) == 1
    now = 30.0
    names.look_up("a.example", 80, 1.0)
    assert len(asked.hosts) == 2


def test_oldest_answers_go_first(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list with a million hosts does not fill the memory."""
    monkeypatch.setattr(resolver, "_NAMES", 2)
    names = Resolver()
    for host in ("a.example", "b.example", "c.example", "b.example", "a.example"):
        names.look_up(host, 80, 1.0)
    assert asked.hosts == ["a.example", "b.example", "c.example", "a.example"]


def test_failure_is_not_remembered(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was not found is asked for again."""

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
    """A name server that fails for one family, or ignores its question, does not hide the addresses of the other."""
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
    """A name that has no address of one family, and whose other family could not be asked for, may be found later."""

    def answer(*_: object, family: int, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME if family == socket.AF_INET else socket.EAI_AGAIN, "fails")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(socket.gaierror) as caught:
        Resolver().look_up("a.example", 80, 1.0)
    assert caught.value.errno == socket.EAI_AGAIN


def test_name_that_does_not_exist_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A final answer for both families costs no further question."""
    asked = []

    def answer(*_: object, family: int, **__: object) -> list[Any]:
        asked.append(family)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(socket.gaierror):
        Resolver().look_up("a.example", 80, 1.0)
    assert asked == [socket.AF_UNSPEC]


def test_address_that_leads_nowhere_is_forgotten(asked: Asked) -> None:
    """A host that moved is found at the next attempt, not after half a minute."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    guard = Guard(["127.0.0.1"])
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            guard.connect("a.example", port, 1.0)
    assert asked.hosts == ["a.example", "a.example"]
