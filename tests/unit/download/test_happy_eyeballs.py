"""A host's dead address delays a connection by a head start, not by the timeout. All sockets are closed."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tasks.download import happy_eyeballs
from tasks.download.happy_eyeballs import AddressInfo, Connector, interleave
from tests.conftest import lacking
from tests.waiting import PATIENCE

_HEAD_START = happy_eyeballs._HEAD_START_SECONDS


def info(address: str, port: int = 80) -> AddressInfo:
    """Return a resolver's entry for an address."""
    rest = (0, 0) if ":" in address else ()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, *rest))


class Network:
    """Listen on one port of several loopback addresses, and record the opened sockets."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.port = 0
        self.opened: list[socket.socket] = []

    def listen(self, address: str) -> AddressInfo:
        """Return an address that accepts connections."""
        self._bind(address).listen(16)
        return info(address, self.port)

    def ignore(self, address: str) -> AddressInfo:
        """Return an address that ignores new connections, because its backlog is full."""
        self._bind(address).listen(0)
        for _ in range(4):
            filler = self._stack.enter_context(closing(socket.socket(info(address)[0])))
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                filler.connect((address, self.port))
        return info(address, self.port)

    def refuse(self, address: str) -> AddressInfo:
        """Return an address that refuses connections."""
        self._bind(address)
        return info(address, self.port)

    def open(self, *kind: int) -> socket.socket:
        """Open a socket and record it."""
        self.opened.append(socket.socket(*kind))
        return self.opened[-1]

    def connect(self, connector: Connector, *found: AddressInfo, seconds: float = PATIENCE) -> str:
        """Return the address that a connector connects to, and check that all other sockets are closed."""
        connection = connector.connect("a.example", self.port, found, monotonic() + seconds, self.open)
        with connection:
            assert connection.gettimeout() is not None
            assert [each for each in self.opened if each.fileno() != -1] == [connection]
            return str(connection.getpeername()[0])

    def _bind(self, address: str) -> socket.socket:
        server = self._stack.enter_context(socket.socket(info(address)[0]))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            server.bind((address, self.port))
        except OSError as error:
            lacking(f"{address} can't be used here: {error}")
        self.port = server.getsockname()[1]
        return server


@pytest.fixture
def network() -> Iterator[Network]:
    """Provide loopback addresses that accept, refuse or ignore connections."""
    with ExitStack() as stack:
        yield Network(stack)


def test_dead_addresses_cost_a_head_start_each(network: Network) -> None:
    """Two silent addresses, one IPv4 and one IPv6, delay the third address by two head starts."""
    good = network.listen("127.0.0.3")
    dead = [network.ignore("::1"), network.ignore("127.0.0.2")]
    began = monotonic()
    assert network.connect(Connector(), *dead, good) == "127.0.0.3"
    assert 2 * _HEAD_START <= monotonic() - began < PATIENCE / 2


def test_failed_attempt_costs_no_head_start(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an address refuses the connection, the next address is tried at once."""
    monkeypatch.setattr(happy_eyeballs, "_HEAD_START_SECONDS", 2 * PATIENCE)
    good = network.listen("127.0.0.3")
    refusing = [network.refuse(address) for address in ("127.0.0.2", "127.0.0.4")]
    assert network.connect(Connector(), *refusing, good) == "127.0.0.3"


def test_slow_address_may_still_win(network: Network) -> None:
    """An attempt continues while later attempts start, so a slow address still connects if the next one is dead."""
    good = network.listen("127.0.0.3")
    assert network.connect(Connector(), good, network.ignore("127.0.0.2")) == "127.0.0.3"


def test_last_good_address_is_tried_first(network: Network) -> None:
    """The second connection to a host does not wait for its dead address."""
    good, dead = network.listen("127.0.0.3"), network.ignore("127.0.0.2")
    connector = Connector()
    network.connect(connector, dead, good)
    del network.opened[:]
    assert network.connect(connector, dead, good) == "127.0.0.3"
    assert len(network.opened) == 1


def test_failed_address_is_forgotten(network: Network) -> None:
    """If the remembered address fails, the other addresses are tried in the resolver's order."""
    good, dead = network.listen("127.0.0.3"), network.ignore("127.0.0.2")
    connector = Connector()
    network.connect(connector, dead, good)
    gone = network.refuse("127.0.0.4")
    connector._answered.put(("a.example", network.port), gone[4])
    del network.opened[:]
    assert network.connect(connector, good, gone) == "127.0.0.3"
    assert [len(network.opened), connector._answered.get(("a.example", network.port))] == [2, None]


def test_memory_expires(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some time the resolver's first address is tried first again."""
    good, dead = network.listen("127.0.0.3"), network.ignore("127.0.0.2")
    monkeypatch.setattr(happy_eyeballs, "_MEMORY_SECONDS", 0.0)
    connector = Connector()
    network.connect(connector, dead, good)
    del network.opened[:]
    network.connect(connector, dead, good)
    assert len(network.opened) == 2


def test_remembered_address_must_still_resolve(network: Network) -> None:
    """Remembered addresses change the order of the addresses that the guard has checked.

    A remembered address that the guard has not checked is never tried.
    """
    good, dead, other = network.listen("127.0.0.3"), network.ignore("127.0.0.2"), network.listen("127.0.0.4")
    connector = Connector()
    network.connect(connector, dead, good)
    assert network.connect(connector, other, dead) == "127.0.0.4"


def test_memory_is_bounded(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list with a million hosts does not fill the memory."""
    monkeypatch.setattr(happy_eyeballs, "_MEMORY_HOSTS", 2)
    good, refusing = network.listen("127.0.0.3"), network.refuse("127.0.0.2")
    connector = Connector()
    for host in ("a.example", "b.example", "c.example"):
        connector.connect(host, network.port, [refusing, good], monotonic() + PATIENCE, socket.socket).close()
    kept = [connector._answered.get((host, network.port)) for host in ("a.example", "b.example", "c.example")]
    assert kept == [None, good[4], good[4]]


def test_all_attempts_share_one_timeout(network: Network) -> None:
    """All attempts end when the time is up, and every socket is closed."""
    found = [network.ignore("127.0.0.2"), network.ignore("127.0.0.3")]
    with pytest.raises(TimeoutError):
        network.connect(Connector(), *found, seconds=2 * _HEAD_START)
    assert [each.fileno() for each in network.opened] == [-1, -1]


def test_all_addresses_fail(network: Network) -> None:
    """The error counts the addresses and names each cause once."""
    found = [network.refuse(address) for address in ("127.0.0.2", "127.0.0.3")]
    with pytest.raises(ConnectionRefusedError, match=r"can't connect to any of its 2 addresses: Connection refused$"):
        network.connect(Connector(), *found)
    assert [each.fileno() for each in network.opened] == [-1, -1]


def test_refusal_outranks_a_missing_route(network: Network) -> None:
    """If one address family has no route and the other refuses, the refusal is raised.

    The error's message names both causes.
    """

    def opener(family: int, *kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return socket.socket(family, *kind)

    found = [network.refuse("127.0.0.2"), info("2606:4700::1")]
    with pytest.raises(ConnectionRefusedError, match="Connection refused, Network is unreachable"):
        Connector().connect("a.example", network.port, found, monotonic() + PATIENCE, opener)


class _Descriptors:
    """A system that opens sockets up to a limit, and then fails with EMFILE."""

    def __init__(self, limit: int) -> None:
        self._limit, self._opened = limit, list[socket.socket]()

    def __call__(self, *kind: int) -> socket.socket:
        """Open a socket, or fail as the system does."""
        if sum(each.fileno() != -1 for each in self._opened) >= self._limit:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._opened.append(socket.socket(*kind))
        return self._opened[-1]


@pytest.mark.parametrize("limit", [0, 1])
def test_lack_of_descriptors_is_recognisable(network: Network, limit: int) -> None:
    """EMFILE does not mean that the host is dead. The connector waits for attempts in progress."""
    refusing, good = network.refuse("127.0.0.2"), network.listen("127.0.0.3")
    ends = monotonic() + PATIENCE
    if limit:
        Connector().connect("a.example", network.port, [refusing, good], ends, _Descriptors(limit)).close()
        return
    with pytest.raises(OSError, match="Too many open files") as caught:
        Connector().connect("a.example", network.port, [refusing, good], ends, _Descriptors(limit))
    assert caught.value.errno == errno.EMFILE


def test_no_descriptor_is_left_open(network: Network) -> None:
    """However its attempts end, a connection uses one descriptor while it is open, and none after it is closed."""
    good, dead, refusing = network.listen("127.0.0.3"), network.ignore("127.0.0.2"), network.refuse("127.0.0.4")
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    for _ in range(3):
        network.connect(Connector(), refusing, dead, good)
    assert len(list(folder.iterdir())) == before


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"], ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]),
        (["1.1.1.1", "1.1.1.2", "::1"], ["1.1.1.1", "::1", "1.1.1.2"]),
        (["1.1.1.1", "1.1.1.1", "1.1.1.2"], ["1.1.1.1", "1.1.1.2"]),
        (["::1"], ["::1"]),
    ],
)
def test_families_alternate(found: list[str], expected: list[str]) -> None:
    """The resolver's first address family comes first. Each family keeps its order, and no address occurs twice."""
    assert [each[4][0] for each in interleave([info(address) for address in found])] == expected


def test_single_address_takes_one_blocking_call(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a host has only one address, as most hosts do, the connection needs no poll."""

    def fail(*_: Any) -> None:
        raise AssertionError("there is nothing to race")

    monkeypatch.setattr(happy_eyeballs, "_race", fail)
    assert network.connect(Connector(), network.listen("127.0.0.3")) == "127.0.0.3"
