"""No order of requests, deaths, lost data and jumps of the clock breaks the limits of a host."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tasks.throttle import hosts, keys, policy
from tasks.throttle.memory_registry import MemoryRegistry
from tasks.throttle.registry import Answers, Grant, Report, Why
from tasks.throttle.scripts import script
from tasks.throttle_options import HostLimit
from tests.integration.throttle_clock import LUA_CLOCK, Clock

#: The hosts with their limits: one without a rate, one with a rate, one for a single request at once.
_LIMITS = {"many": HostLimit(5), "paced": HostLimit(3, 4.0), "single": HostLimit(1)}
#: A holder that lives renews its leases after this time.
_RENEW_SECONDS = 1.0
#: Two jumps of the clock, or a jump and a loss of data, are at least this long apart. In between, all holders renew.
_CALM_SECONDS = 4.0

_names = st.sampled_from(sorted(_LIMITS))
_holders = st.sampled_from(["one", "two", "three"])
_reports = st.one_of(
    st.builds(Report, ok=st.integers(1, 12), latency=st.sampled_from([0.1, 1.5, 4.0])),
    st.builds(Report, slow=st.integers(1, 3)),
    st.builds(Report, refused=st.just(True), retry_after=st.sampled_from([None, None, 0.0, 2.0, 30.0, 300.0])),
    st.just(Report(unreachable=True)),
)
_PROFILE = settings(max_examples=12, stateful_step_count=30, deadline=None, database=None, derandomize=True)


class Model(RuleBasedStateMachine):
    """Three processes and three hosts. Both registries get the same calls, and must give the same replies.

    The model knows the permits that each process really has. They count even if the registry has lost them.
    """

    server: ClassVar[redis.Redis]
    #: Whether Redis may lose data. If so, only the registry in Redis is tested, because the other one loses nothing.
    loses_data: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.server.flushall()
        self.clock = Clock(self.server)
        self.redis = self.clock.registry()
        self.describe = self.server.register_script(script("describe", LUA_CLOCK))
        self.memory = None if self.loses_data else MemoryRegistry(lambda: self.clock.now)
        #: The time that really passes. A jump of the clock does not change it.
        self.time = 0.0
        self.renewed, self.disturbed, self.lost = 0.0, -_CALM_SECONDS, -_CALM_SECONDS
        #: Each process's permits by host. A dead process is replaced by one of another generation.
        self.held: dict[str, dict[str, int]] = defaultdict(dict)
        self.generation: dict[str, int] = defaultdict(int)
        #: When dead processes last renewed the leases that must outlive them. It is unknown how long a lease lasts if
        #: the clock jumped or Redis lost data after its last renewal.
        self.dead: dict[str, float] = {}
        #: When the latest booked request starts, and when the latest rest ends, by host.
        self.booked: dict[str, float] = {}
        self.rest_ends: dict[str, float] = {}
        self.probes: dict[str, str] = {}
        self._sign_in()

    def teardown(self) -> None:
        """Whatever happened, each host gets requests again when all other processes have stopped."""
        for holder in self._live():
            self._both("forget", holder, list(_LIMITS))
            self.held[holder].clear()
        for name in _LIMITS:
            self._wait_for_a_permit(name)

    @rule(name=_names, who=_holders, want=st.integers(1, 6), returned=st.integers(0, 2))
    def acquire(self, name: str, who: str, want: int, returned: int) -> None:
        """A process asks for permits, and may give some back in the same call."""
        self._acquire(name, self._id(who), want, returned)

    @rule(name=_names, who=_holders, n=st.integers(1, 5))
    def release(self, name: str, who: str, n: int) -> None:
        """A process gives permits back."""
        holder = self._id(who)
        n = min(n, self.held[holder].get(name, 0))
        if n:
            self.held[holder][name] -= n
            self._both("renew", holder, {name: self.held[holder][name]})

    @rule(name=_names, who=_holders, report=_reports, times=st.sampled_from([1, 1, 1, 5]))
    def report(self, name: str, who: str, report: Report, times: int) -> None:
        """A process reports what it has observed."""
        for _ in range(times):
            self._report(name, self._id(who), report)

    @rule(seconds=st.sampled_from([0.05, 0.3, 0.3, 1.1, 2.0, 5.0, 11.0, 125.0]))
    def wait(self, seconds: float) -> None:
        """Time passes. Live processes renew their leases meanwhile."""
        start, end = self.time, self.time + seconds
        while True:
            # In a long wait, a renewal now and then is enough.
            interval = _RENEW_SECONDS if self.renewed < start + _CALM_SECONDS else 12.0
            if self.renewed + interval > end:
                break
            self._pass(max(0.0, self.renewed + interval - self.time))
            self._renew()
        self._pass(end - self.time)

    @rule(who=_holders)
    def die(self, who: str) -> None:
        """A process dies with its permits. Another process takes its place."""
        if self.renewed > self.disturbed:
            self.dead[self._id(who)] = self.renewed
        self.generation[who] += 1
        self._sign_in()

    @precondition(lambda self: self.time - self.disturbed >= _CALM_SECONDS)
    @rule(seconds=st.sampled_from([-100_000.0, -20.0, -1.0, 3.0, 30.0, 100_000.0]))
    def jump(self, seconds: float) -> None:
        """The clock jumps."""
        self.clock.advance(seconds)
        self.disturbed = self.time
        # After a jump, bookings and rests may end early.
        self.dead.clear()
        self.booked.clear()
        self.rest_ends = {name: self.clock.now + self._state(name).resting for name in _LIMITS}

    @precondition(lambda self: self.loses_data and self.time - self.disturbed >= _CALM_SECONDS)
    @rule(lost=st.sets(st.sampled_from(["host", "leases", "index", "everything"]), min_size=1))
    def lose_data(self, lost: set[str]) -> None:
        """Redis is restarted without some of its data, or all data is deleted."""
        if "everything" in lost:
            self.server.flushall()
        else:
            self.server.hset(keys.THROTTLE, "run_id", "another")
        for name in _LIMITS if "host" in lost else ():
            self.server.delete(keys.host(name))
        for name in _LIMITS if "leases" in lost else ():
            self.server.delete(keys.leases(name))
        if "index" in lost:
            self.server.delete(keys.HOSTS)
        self.clock.set(self.clock.now)
        self.disturbed = self.lost = self.time
        self.dead.clear()
        self.rest_ends.clear()
        self.probes.clear()

    def _acquire(self, name: str, holder: str, want: int, returned: int) -> Grant:
        returned = min(returned, self.held[holder].get(name, 0))
        before = self._state(name)
        grant: Grant = self._both("acquire", name, _LIMITS[name], holder, want, True, returned)
        self.held[holder][name] = self.held[holder].get(name, 0) - returned + grant.permits
        assert 0 <= grant.permits <= want
        assert grant.rested == before.rests
        if grant.permits:
            self._check_permits(name, holder, grant, before)
        else:
            assert grant.why is not Why.GRANTED
            assert 0 < grant.wait <= policy.LONGEST_RETRY_AFTER_SECONDS
            assert grant.why is not Why.SETTLING or grant.wait <= policy.SETTLE_SECONDS
        return grant

    def _check_permits(self, name: str, holder: str, grant: Grant, before: hosts.HostState) -> None:
        """Check the permits that a process just got."""
        limit = _LIMITS[name]
        total = sum(self.held[one].get(name, 0) for one in self._counted())
        allowed = before.open_limit if before.limit is not None else limit.concurrency
        assert allowed is not None
        assert total <= allowed, f"{total} permits of {name}, {allowed} allowed"
        assert self.clock.now >= self.rest_ends.get(name, 0.0) - 1e-4, f"{name} rests"
        assert (grant.why is Why.HALF_OPEN) == (before.rests > 0)
        if before.rests:
            self.probes[name] = holder
        assert self.time - self.lost >= policy.SETTLE_SECONDS - 1e-4, "a permit while the registry settles"
        if limit.rate is not None:
            start = self.time + grant.wait
            assert grant.permits == 1
            assert grant.wait <= policy.MAX_BOOKING_SECONDS
            assert start >= self.booked.get(name, -1.0) + 1 / limit.rate - 1e-4, f"{name} is too fast"
            self.booked[name] = start
        others = sum(self.held[one].get(name, 0) > 0 for one in self._live() if one != holder)
        share = max(1, -(-allowed // (1 + others))) + (limit.rate is not None)
        assert self.held[holder][name] <= share, f"{holder} has more than its share of {name}"

    def _report(self, name: str, holder: str, report: Report) -> None:
        before = self._state(name)
        rest = self._both("report", name, holder, report, True)
        after = self._state(name)
        assert after.adaptive_limit is None or 1 <= after.adaptive_limit < max(2, _LIMITS[name].concurrency)
        assert (rest is None) == (after.resting == 0)
        if rest is None:
            assert not (report.refused and before.rests == 0), "a refusal without a rest"
            assert after.rests in {0, before.rests}
            if after.rests < before.rests:
                assert self.probes.get(name) == holder
            return
        assert rest.given_up == (after.why is Why.GIVEN_UP)
        self.rest_ends[name] = self.clock.now + rest.seconds
        requested = None
        if report.refused and report.retry_after is not None:
            requested = max(policy.SHORTEST_RETRY_AFTER_SECONDS, report.retry_after)
        if before.resting:
            assert after.rests == before.rests
            assert rest.seconds == pytest.approx(max(before.resting, requested or 0.0), abs=1e-4)
            return
        assert after.rests == before.rests + 1
        assert before.rests == 0 or self.probes.get(name) == holder
        first = policy.FIRST_REFUSED_REST_SECONDS if report.refused else policy.FIRST_UNREACHABLE_REST_SECONDS
        doubled = min(first * 2**before.rests, policy.LONGEST_REST_SECONDS)
        expected = requested or doubled
        assert rest.seconds == pytest.approx(expected, abs=1e-4)
        many = policy.REFUSED_RESTS if report.refused else policy.UNREACHABLE_RESTS
        was_given_up = before.why is Why.GIVEN_UP
        assert rest.given_up == (was_given_up or after.rests >= many or expected > policy.LONGEST_REST_SECONDS)

    def _renew(self) -> None:
        for holder in self._live():
            held = {name: permits for name, permits in self.held[holder].items() if permits}
            if not held:
                continue
            answers = {name: Answers(permits, 0.2) for name, permits in held.items()}
            renewals: Mapping[str, Any] = self._both("renew", holder, held, answers)
            assert all(renewal.share <= held[name] for name, renewal in renewals.items())
        self.renewed = self.time

    def _wait_for_a_permit(self, name: str) -> None:
        for _ in range(20):
            grant = self._acquire(name, "last", 1, 0)
            if grant.permits:
                return
            self._pass(max(grant.wait, policy.DOUBT_SECONDS))
        raise AssertionError(f"{name} gets no request any more")

    def _pass(self, seconds: float) -> None:
        self.time += seconds
        self.clock.advance(seconds)

    def _id(self, who: str) -> str:
        return f"{who}-{self.generation[who]}"

    def _live(self) -> list[str]:
        return [self._id(who) for who in ("one", "two", "three")]

    def _counted(self) -> list[str]:
        """Return the processes whose permits count: the live ones, and the dead ones while their leases last."""
        lasting = [name for name, since in self.dead.items() if self.time - since < policy.LEASE_SECONDS - 1]
        return [*self._live(), "last", *lasting]

    def _sign_in(self) -> None:
        self.server.sadd(keys.WORKERS, *self._live(), "last", *self.dead)

    def _state(self, name: str) -> hosts.HostState:
        if self.memory is not None:
            # Describing a host also checks its times against the clock.
            self.memory.renew("nobody", {name: 0})
        places = keys.host(name), keys.leases(name), keys.HOST_LIMITS, keys.parked(name)
        reply = cast("str", self.describe(places, (name,)))
        return hosts.HostState.from_json(name, json.loads(reply))

    def _both(self, method: str, *arguments: Any) -> Any:
        """Call a method of both registries. Return the reply, which must be the same."""
        reply = getattr(self.redis, method)(*arguments)
        if self.memory is not None:
            other = getattr(self.memory, method)(*arguments)
            assert rounded(reply) == rounded(other), f"{reply} is not {other}"
        return reply


def rounded(reply: Any) -> Any:
    """Return a reply for a comparison: the registry in Redis rounds times to microseconds."""
    if isinstance(reply, Mapping):
        return {key: rounded(value) for key, value in reply.items()}
    if reply is None:
        return None
    return [pytest.approx(value, abs=1e-4) if isinstance(value, float) else value for value in _fields(reply)]


def _fields(reply: Any) -> list[Any]:
    return [getattr(reply, name) for name in reply.__dataclass_fields__]


class LossyModel(Model):
    """The same with a Redis that loses data."""

    loses_data = True


@pytest.mark.parametrize("machine", [Model, LossyModel])
def test_limits_hold(machine: type[Model], server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host gets more open requests, a higher rate or a shorter rest than its limit allows; none is blocked."""
    monkeypatch.setattr(Model, "server", server, raising=False)
    run_state_machine_as_test(machine, settings=_PROFILE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Model, LossyModel])
def test_limits_hold_in_many_orders(machine: type[Model], server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with many more orders."""
    monkeypatch.setattr(Model, "server", server, raising=False)
    run_state_machine_as_test(machine, settings=settings(_PROFILE, max_examples=1000))
