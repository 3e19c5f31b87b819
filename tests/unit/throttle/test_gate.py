"""The permits of one process: reuse, waits, busy hosts, rests, bookings, and the fleet's share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf

import pytest

from tasks.deadline import Deadline
from tasks.request_gate import Answer
from tasks.retry_later import HostBusy
from tasks.throttle.gate import HostGate, HostPermit
from tasks.throttle.host_key import HostKeys
from tasks.throttle.memory_registry import MemoryRegistry
from tasks.throttle.registry import Grant
from tasks.throttle_options import HostLimit, HostScope, ThrottleOptions
from tests.waiting import wait_for

_GOOD = Answer(latency=0.01)


@dataclass(frozen=True, slots=True)
class Server:
    """The server that a request goes to."""

    host: str = "a.example"
    scheme: str = "https"
    port: int = 443


@dataclass
class CountingRegistry(MemoryRegistry):
    """A registry that counts the calls for permits."""

    asked: list[int] = field(default_factory=list)

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def acquire(self, key: str, limit: HostLimit, holder: str, want: int, adaptive: bool, returned: int = 0) -> Grant:
        """Ask for permits."""
        self.asked.append(want)
        return super().acquire(key, limit, holder, want, adaptive, returned)


def options(concurrency: int = 4, rate: float | None = None) -> ThrottleOptions:
    """Return options with this limit."""
    return ThrottleOptions(HostLimit(concurrency, rate))


@contextmanager
def gate_of(registry: MemoryRegistry, holder: str = "one", patience: float = 0.2) -> Iterator[HostGate]:
    """Give the gate of one process."""
    gate = HostGate(registry, holder, HostKeys(lambda target: "192.0.2.1"), patience)
    try:
        yield gate
    finally:
        gate.stop()


def enter(gate: HostGate, throttle: ThrottleOptions, host: str = "a.example") -> HostPermit:
    """Enter a gate with a deadline of 10 s."""
    return gate.enter(Server(host), throttle, Deadline(10, 10))


def _rests(gate: HostGate) -> bool:
    """Return whether the host rests for this process."""
    try:
        enter(gate, options()).end(_GOOD)
    except HostBusy as busy:
        return "rests" in str(busy)
    return False


def test_permit_is_reused_without_asking_the_fleet() -> None:
    """A hundred requests to one host, one after the other, ask for one permit."""
    registry = CountingRegistry()
    with gate_of(registry) as gate:
        for _ in range(100):
            enter(gate, options()).end(_GOOD)
    assert registry.asked == [1]


def test_open_requests_stay_below_the_limit_of_the_fleet() -> None:
    """Two processes with eight slots each never have more than four requests open, and both get permits."""
    registry = MemoryRegistry()
    lock, opened, most = threading.Lock(), dict.fromkeys(("one", "two"), 0), []

    def request(gate: HostGate, name: str) -> None:
        for _ in range(10):
            permit = enter(gate, options(4))
            with lock:
                opened[name] += 1
                most.append(sum(opened.values()))
            time.sleep(0.005)
            with lock:
                opened[name] -= 1
            permit.end(_GOOD)

    with gate_of(registry, "one", inf) as one, gate_of(registry, "two", inf) as two, ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(request, *each) for each in [(one, "one"), (two, "two")] * 8]:
            done.result(20)
    assert max(most) == 4


def test_waits_for_a_permit_that_is_free_soon() -> None:
    """If the only permit is free again within the patience, the next request waits for it."""
    with gate_of(MemoryRegistry(), patience=5) as gate, ThreadPoolExecutor(1) as pool:
        first = enter(gate, options(1))
        second = pool.submit(enter, gate, options(1))
        first.end(_GOOD)
        second.result(5).end(_GOOD)


def test_busy_host_frees_the_slot() -> None:
    """If no permit is free within the patience, the gate says so, and names the host."""
    with gate_of(MemoryRegistry()) as gate:
        permit = enter(gate, options(1))
        started = time.monotonic()
        with pytest.raises(HostBusy, match="all its permits in use") as busy:
            enter(gate, options(1))
        assert time.monotonic() - started < 2
        assert busy.value.host == "a.example"
        enter(gate, options(1), "b.example").end(_GOOD)
        permit.end(_GOOD)


def test_wait_extends_the_deadline() -> None:
    """The time in the gate does not count towards the image's deadline."""
    with gate_of(MemoryRegistry()) as gate:
        permit, deadline = enter(gate, options(1)), Deadline(10, 10)
        ends = deadline.ends
        with pytest.raises(HostBusy):
            gate.enter(Server(), options(1), deadline)
        assert deadline.ends > ends
        permit.end(_GOOD)


def test_refusal_stops_all_processes() -> None:
    """After a 429 in one process, another process sends nothing until the rest is over."""
    registry = MemoryRegistry()
    with gate_of(registry, "one") as one, gate_of(registry, "two") as two:
        enter(two, options()).end(_GOOD)
        rest = enter(one, options()).end(replace(_GOOD, refused=True, retry_after=60))
        assert rest == pytest.approx(60)
        for gate in (one, two):
            wait_for(lambda gate=gate: _rests(gate))  # type: ignore[misc]


def test_probe_ends_a_rest() -> None:
    """After the rest, one request probes the host, and its answer ends the rest for all."""
    with gate_of(MemoryRegistry(), patience=5) as gate:
        assert enter(gate, options()).end(replace(_GOOD, refused=True, retry_after=1))
        probe = enter(gate, options())
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(enter, gate, options())
            assert not other.done()
            probe.end(_GOOD)
            other.result(5).end(_GOOD)


def test_unreachable_host_rests() -> None:
    """After failed connections of several images in a row, the host gets no requests."""
    with gate_of(MemoryRegistry()) as gate:
        for _ in range(5):
            gate.report_unreachable(Server(), options())
        with pytest.raises(HostBusy, match="rests"):
            enter(gate, options())


def test_host_that_is_not_adaptive_never_rests() -> None:
    """Without `--adaptive`, a refusal has no effect on other requests."""
    throttle = replace(options(), adaptive=False)
    with gate_of(MemoryRegistry()) as gate:
        assert enter(gate, throttle).end(replace(_GOOD, refused=True, retry_after=60)) is None
        enter(gate, throttle).end(_GOOD)


def test_unused_permits_go_back_to_the_fleet() -> None:
    """If a process no longer uses the host's only permit, another process gets it."""
    registry = MemoryRegistry()
    with gate_of(registry, "one") as one, gate_of(registry, "two", patience=10) as two:
        enter(one, options(1)).end(_GOOD)
        enter(two, options(1)).end(_GOOD)


def test_rate_spaces_requests() -> None:
    """Eleven requests at 50 per second take at least 0.2 s, also from two threads."""
    with gate_of(MemoryRegistry(), patience=5) as gate, ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        list(pool.map(lambda _: enter(gate, options(4, 50)).end(_GOOD), range(11)))
        assert time.monotonic() - started >= 0.19


@pytest.mark.parametrize(
    ("server", "scope", "key"),
    [
        (Server("images.example.co.uk"), HostScope.HOST, "images.example.co.uk"),
        (Server("images.example.co.uk."), HostScope.DOMAIN, "example.co.uk"),
        (Server("images.example.co.uk"), HostScope.IP, "192.0.2.1"),
        (Server("127.0.0.1", "http", 8080), HostScope.DOMAIN, "127.0.0.1:8080"),
        (Server("a.example", "http", 80), HostScope.HOST, "a.example"),
        (Server("localhost"), HostScope.DOMAIN, "localhost"),
        (Server("github.io"), HostScope.DOMAIN, "github.io"),
        (Server("me.github.io"), HostScope.DOMAIN, "me.github.io"),
    ],
)
def test_key_names_what_the_limit_counts_for(server: Server, scope: HostScope, key: str) -> None:
    """The key is the host, its registrable domain or its address, and the port if it is unusual."""
    assert HostKeys(lambda target: "192.0.2.1").key(server, scope) == key
