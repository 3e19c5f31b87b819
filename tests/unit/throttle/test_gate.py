"""The permits of one process: reuse, waits, busy hosts, rests, bookings, and the fleet's share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import pytest
import redis

from tasks.deadline import Deadline
from tasks.errors import DnsUnavailableError
from tasks.request_gate import Answer
from tasks.retry_later import HostBusy
from tasks.throttle.gate import HostGate, HostPermit
from tasks.throttle.host_key import HostKeys
from tasks.throttle.memory_registry import MemoryRegistry
from tasks.throttle.registry import Grant, Renewal, Rest
from tasks.throttle_options import HostLimit, HostScope, Target, ThrottleOptions
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


def test_host_with_answers_between_its_failures_does_not_rest() -> None:
    """A host that fails for every other image does not rest, although answers are otherwise reported only later."""
    with gate_of(MemoryRegistry()) as gate:
        for _ in range(20):
            enter(gate, options()).end(_GOOD)
            gate.report_unreachable(Server(), options())
        enter(gate, options()).end(_GOOD)


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


def test_stopped_process_leaves_no_permits() -> None:
    """While a process stops, it renews nothing, because this would restore the permits that it gives back."""
    late = list[Any]()

    class SlowRegistry(MemoryRegistry):
        def renew(self, *args: Any) -> Mapping[str, Renewal]:
            if gate._stopped.is_set():
                late.append(args)
            return super().renew(*args)

        def forget(self, *args: Any) -> None:
            super().forget(*args)
            time.sleep(0.3)

    with gate_of(SlowRegistry()) as gate:
        enter(gate, options())
        gate._renewed_at = -inf
    assert not late


def test_rate_spaces_requests() -> None:
    """Eleven requests at 50 per second take at least 0.2 s, also from two threads."""
    with gate_of(MemoryRegistry(), patience=5) as gate, ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        list(pool.map(lambda _: enter(gate, options(4, 50)).end(_GOOD), range(11)))
        assert time.monotonic() - started >= 0.19


def test_slot_asks_again_when_its_process_gives_a_permit_back() -> None:
    """With a rate, a waiting slot asks the fleet as soon as another slot's request ends, not at the suggested time."""

    class PatientRegistry(MemoryRegistry):
        def acquire(self, *args: Any, **options: Any) -> Grant:
            grant = super().acquire(*args, **options)
            return grant if grant.permits else replace(grant, wait=60.0)

    with gate_of(PatientRegistry(), patience=5) as gate, ThreadPoolExecutor(1) as pool:
        first = enter(gate, options(1, 100))
        second = pool.submit(enter, gate, options(1, 100))
        wait_for(lambda: gate._hosts["a.example"].waiting > 0)
        first.end(_GOOD)
        second.result(10).end(_GOOD)


def test_one_request_probes_a_busy_host() -> None:
    """After each rest of a host that always refuses, one request is sent, although slots wait with older permits."""
    registry, lock, sent = MemoryRegistry(), threading.Lock(), list[float]()
    with gate_of(registry, patience=0.5) as gate, ThreadPoolExecutor(8) as pool:
        permits = [enter(gate, options(4)) for _ in range(4)]
        started = time.monotonic()

        def request() -> None:
            while time.monotonic() - started < 1.5:
                with suppress(HostBusy):
                    permit = enter(gate, options(4))
                    with lock:
                        sent.append(time.monotonic() - started)
                    permit.end(replace(_GOOD, refused=True))

        permits.pop().end(replace(_GOOD, refused=True))
        slots = [pool.submit(request) for _ in range(8)]
        for permit in permits:
            permit.end(_GOOD)
        for slot in slots:
            slot.result(20)
        assert len(sent) == 1
        assert registry.acquire("a.example", HostLimit(4), "two", 1, True).rested == 2


def test_renewal_does_not_undo_a_grant() -> None:
    """If a slot needs a permit during a renewal, the fleet still counts the new permit afterwards."""
    renewing, renewed = threading.Event(), threading.Event()

    class SlowRegistry(CountingRegistry):
        def renew(self, *arguments: Any) -> Mapping[str, Renewal]:
            renewing.set()
            # If the gate let the slot ask for its permit during the renewal, the slot would ask now.
            with suppress(AssertionError):
                wait_for(lambda: len(self.asked) > 1, 0.3)
            try:
                return super().renew(*arguments)
            finally:
                renewed.set()

    registry = SlowRegistry()
    with gate_of(registry, patience=5) as gate, ThreadPoolExecutor(1) as pool:
        first = enter(gate, options(3))
        assert renewing.wait(5)
        second = pool.submit(enter, gate, options(3)).result(5)
        assert renewed.wait(5)
        # Two permits of three are in use. Another process gets the third, although its share would be two.
        assert registry.acquire("a.example", HostLimit(3), "two", 2, True).permits == 1
        first.end(_GOOD)
        second.end(_GOOD)


def test_permit_whose_reply_was_lost_comes_back() -> None:
    """If the reply with the host's only permit is lost, the process gets a permit again within a few seconds."""

    class LossyRegistry(CountingRegistry):
        def acquire(self, *args: Any, **options: Any) -> Grant:
            grant = super().acquire(*args, **options)
            if len(self.asked) == 1:
                raise redis.ConnectionError("the connection broke after the script had run")
            return grant

    with gate_of(LossyRegistry(), patience=5) as gate:
        with pytest.raises(redis.ConnectionError):
            enter(gate, options(1))
        enter(gate, options(1)).end(_GOOD)


def test_permit_whose_release_failed_comes_back() -> None:
    """If a release fails, another process gets the permit long before the lease ends."""

    class FailingRegistry(MemoryRegistry):
        released = 0

        def renew(self, holder: str, held: Mapping[str, int], *arguments: Any) -> Mapping[str, Renewal]:
            self.released += holder == "one"
            if holder == "one" and self.released == 1:
                raise redis.ConnectionError("the connection broke")
            return super().renew(holder, held, *arguments)

    registry = FailingRegistry()
    with gate_of(registry, "one") as one, gate_of(registry, "two", patience=8) as two:
        enter(one, options(1)).end(_GOOD)
        wait_for(lambda: registry.released > 0)
        enter(two, options(1)).end(_GOOD)


def test_late_bookings_do_not_hold_a_slot_for_ever() -> None:
    """If each reply comes too late for its booking, the slot is freed after the patience."""

    class SlowRegistry(MemoryRegistry):
        def acquire(self, *args: Any, **options: Any) -> Grant:
            time.sleep(0.3)
            return super().acquire(*args, **options)

    with gate_of(SlowRegistry()) as gate, pytest.raises(HostBusy):
        enter(gate, options(4, 1000))


def test_idle_process_serves_parked_tasks() -> None:
    """A process that has sent no request yet serves parked tasks, because all tasks may be parked."""
    served = threading.Event()
    gate = HostGate(MemoryRegistry(), "one", HostKeys(lambda target: "192.0.2.1"), serve=served.set)
    gate.start()
    assert served.wait(5)
    gate.stop()


def test_each_run_decides_whether_its_refusals_matter() -> None:
    """A refusal counts for the run that got it, even if a run of the other kind uses the host meanwhile."""
    fixed = replace(options(), adaptive=False)
    with gate_of(MemoryRegistry()) as gate:
        permit, other = enter(gate, fixed), enter(gate, options())
        assert permit.end(replace(_GOOD, refused=True, retry_after=60)) is None
        assert other.end(replace(_GOOD, refused=True, retry_after=60)) == pytest.approx(60)


def test_host_that_lost_its_address_is_not_reported() -> None:
    """If the limit is for addresses, an unreachable host whose name no longer resolves raises no second error."""

    def find_address(_: Target) -> str:
        raise DnsUnavailableError("no answer")

    gate = HostGate(MemoryRegistry(), "one", HostKeys(find_address))
    gate.report_unreachable(Server(), replace(options(), scope=HostScope.IP))


def test_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """While Redis is unreachable, each thread of the gate logs one warning."""

    class DeadRegistry(MemoryRegistry):
        failures = 0

        def next_rest(self, timeout: float) -> Rest | None:
            self.failures += 1
            raise redis.ConnectionError("connection refused")

    registry = DeadRegistry()
    with gate_of(registry) as gate:
        gate.start()
        wait_for(lambda: registry.failures > 1)
    assert len([record for record in caplog.records if "unreachable" in record.message]) == 1


def test_host_without_permits_costs_nothing_more() -> None:
    """The gate's thread looks only at hosts with permits or unreported answers, not at all known hosts."""
    with gate_of(MemoryRegistry()) as gate:
        for number in range(50):
            enter(gate, options(), f"{number}.example").end(_GOOD)
        wait_for(lambda: not gate._active)
        assert len(gate._hosts) == 50


def test_unused_hosts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is unused for a while takes no more memory. A host in use is kept."""
    monkeypatch.setattr("tasks.throttle.gate._FORGET_SECONDS", 0.1)
    with gate_of(MemoryRegistry()) as gate:
        permit = enter(gate, options())
        enter(gate, options(), "b.example").end(_GOOD)
        wait_for(lambda: list(gate._hosts) == ["a.example"])
        permit.end(_GOOD)


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
