"""The rules for the permits, rates and rests of hosts, with both registries: in Redis, and in memory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import redis

from tasks.throttle import keys, policy
from tasks.throttle.registry import Answers, Grant, Registry, Report, Rest, Why
from tasks.throttle_options import HostLimit
from tests.integration.throttle_clock import Clock

_HOST, _LIMIT = "a.example", HostLimit(8)
_OK, _REFUSED, _UNREACHABLE = Report(ok=1, latency=0.1), Report(refused=True), Report(unreachable=True)


@dataclass
class Stage:
    """A registry, and its clock."""

    registry: Registry
    clock: Clock

    def acquire(
        self, holder: str, want: int = 1, limit: HostLimit = _LIMIT, adaptive: bool = True, returned: int = 0
    ) -> Grant:
        """Ask for permits of the only host."""
        return self.registry.acquire(_HOST, limit, holder, want, adaptive, returned)

    def report(self, report: Report, holder: str = "one", adaptive: bool = True) -> Rest | None:
        """Report an observation of the only host."""
        return self.registry.report(_HOST, holder, report, adaptive)

    def limit_is(self, permits: int) -> bool:
        """Return whether a holder gets this number of permits; they are released again."""
        granted = self.acquire("limit", 100).permits
        self.registry.renew("limit", {_HOST: 0})
        return granted == permits


@pytest.fixture(params=["redis", "memory"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Give a registry of each kind, with a clock that stands still."""
    server: redis.Redis | None = request.getfixturevalue("server") if request.param == "redis" else None
    if server is not None:
        server.sadd(keys.WORKERS, "one", "two", "three", "dead")
    clock = Clock(server)
    return Stage(clock.registry(), clock)


def test_holders_share_the_permits_of_a_host(stage: Stage) -> None:
    """The first holder gets all permits. When a second one waits, the first must give half of them back."""
    assert stage.acquire("one", 20) == Grant(8, 0.0, Why.GRANTED, 0, False)
    assert stage.acquire("two", 20) == Grant(0, policy.FULL_WAIT_SECONDS, Why.FULL, 0, True)
    renewal = stage.registry.renew("one", {_HOST: 8})[_HOST]
    assert (renewal.share, renewal.wanted, renewal.resting) == (4, True, 0.0)
    stage.registry.renew("one", {_HOST: 5})
    assert stage.acquire("two", 20).permits == 3
    assert stage.acquire("two", 20, returned=1).permits == 1
    assert stage.acquire("one", 20).why is Why.FULL


def test_waiting_holder_is_forgotten_after_a_while(stage: Stage) -> None:
    """A holder that no longer asks leaves its share to the others."""
    stage.acquire("one", 8)
    stage.acquire("two", 1)
    stage.clock.advance(policy.CLAIM_SECONDS + 0.1)
    renewal = stage.registry.renew("one", {_HOST: 8})[_HOST]
    assert (renewal.share, renewal.wanted) == (8, False)


def test_each_holder_gets_a_permit_if_there_are_enough(stage: Stage) -> None:
    """With three holders, no holder gets more than a third, rounded up."""
    for holder in ("one", "two", "three"):
        stage.acquire(holder, 1)
    assert [stage.acquire(holder, 8).permits for holder in ("one", "two", "three")] == [2, 2, 1]


def test_lease_of_a_silent_holder_expires(stage: Stage) -> None:
    """A lease outlives its holder by its lifetime and a moment of doubt. Then others get the permits."""
    stage.acquire("dead", 8)
    stage.clock.advance(policy.LEASE_SECONDS - 0.1)
    assert stage.acquire("one").why is Why.FULL
    stage.clock.advance(0.2)
    assert stage.acquire("one").why is Why.FULL
    stage.clock.advance(policy.DOUBT_SECONDS)
    assert stage.acquire("one", 8).permits == 8


def test_renewed_lease_does_not_expire(stage: Stage) -> None:
    """A holder keeps its permits as long as it renews them, even if the clock jumps ahead in between."""
    stage.acquire("one", 8)
    for _ in range(3):
        stage.clock.advance(policy.LEASE_SECONDS - 0.1)
        stage.registry.renew("one", {_HOST: 8})
    stage.clock.advance(3600)
    assert stage.acquire("two").why is Why.FULL
    stage.clock.advance(1)
    assert stage.acquire("two").why is Why.FULL
    stage.registry.renew("one", {_HOST: 8})
    stage.clock.advance(policy.DOUBT_SECONDS)
    assert stage.acquire("two").why is Why.FULL


@pytest.mark.parametrize("jump", [-86_400.0, -30.0, 30.0, 86_400.0])
def test_clock_that_jumps_blocks_no_host(stage: Stage, jump: float) -> None:
    """After a jump of the clock, the host is usable again when a lease, a booking and a rest have had their time."""
    limit = HostLimit(2, 1.0)
    assert stage.acquire("dead", 1, limit).permits == 1
    assert stage.acquire("dead", 1, limit).why is Why.RATE
    stage.report(_REFUSED)
    stage.clock.advance(jump)
    replies = [stage.acquire("one", 1, limit)]
    for seconds in (policy.FIRST_REFUSED_REST_SECONDS, policy.LEASE_SECONDS, policy.DOUBT_SECONDS, 1.0):
        stage.clock.advance(seconds)
        replies.append(stage.acquire("one", 1, limit))
    assert replies[0].why is (Why.RESTING if jump < 0 else Why.HALF_OPEN)
    assert sum(reply.permits for reply in replies) == 1
    stage.report(_OK)
    stage.registry.renew("one", {_HOST: 0})
    stage.clock.advance(1)
    assert stage.acquire("one", 1, limit).why is Why.GRANTED


def test_rate_books_requests_at_equal_distances(stage: Stage) -> None:
    """Requests start at the host's rate. A holder gets no booking that is too far ahead."""
    limit = HostLimit(8, 5.0)
    waits = [stage.acquire(holder, 8, limit).wait for holder in ("one", "two", "one")]
    assert waits == pytest.approx([0.0, 0.2, 0.4])
    late = stage.acquire("two", 8, limit)
    assert (late.permits, late.why) == (0, Why.RATE)
    assert late.wait == pytest.approx(0.6 - policy.MAX_BOOKING_SECONDS)
    stage.clock.advance(late.wait + 0.001)
    assert stage.acquire("two", 8, limit).wait == pytest.approx(policy.MAX_BOOKING_SECONDS, abs=0.002)


def test_unused_rate_is_not_saved(stage: Stage) -> None:
    """After a pause, the rate allows one request at once, and not a burst."""
    limit = HostLimit(8, 2.0)
    stage.acquire("one", 1, limit)
    stage.clock.advance(60)
    assert [stage.acquire("one", 1, limit).wait for _ in range(2)] == pytest.approx([0.0, 0.5])


def test_slow_rate_lets_a_request_through_in_each_interval(stage: Stage) -> None:
    """A rate below one request per second works too."""
    limit = HostLimit(8, 0.1)
    assert stage.acquire("one", 1, limit).permits == 1
    assert stage.acquire("one", 1, limit).wait == pytest.approx(10 - policy.MAX_BOOKING_SECONDS)
    stage.clock.advance(9.6)
    assert stage.acquire("one", 1, limit, returned=1).wait == pytest.approx(0.4)


def test_rests_double_until_the_host_is_given_up(stage: Stage) -> None:
    """A host that refuses each probe rests twice as long each time, and is given up in the end."""
    stage.acquire("one")
    stage.registry.renew("one", {_HOST: 0})
    lengths, given_up = [], []
    assert stage.registry.next_rest(0.01) is None
    for _ in range(7):
        rest = stage.report(_REFUSED)
        assert rest is not None
        assert stage.registry.next_rest(1.0) == rest
        lengths.append(rest.seconds)
        given_up.append(rest.given_up)
        why = Why.GIVEN_UP if rest.given_up else Why.RESTING
        assert stage.acquire("two").why is why
        stage.clock.advance(rest.seconds)
        probe = stage.acquire("one", 8)
        assert (probe.permits, probe.why, probe.rested) == (1, Why.HALF_OPEN, len(lengths))
        assert stage.acquire("two").why is Why.HALF_OPEN
        stage.registry.renew("one", {_HOST: 0})
    assert lengths == pytest.approx([1, 2, 4, 8, 16, 32, 64])
    assert given_up == [False] * 5 + [True] * 2


def test_requested_rest_is_kept(stage: Stage) -> None:
    """Retry-After decides how long a host rests. A longer request during the rest prolongs it, a shorter one does not.

    A host that asks for more than two minutes is given up, but still gets no request during this time.
    """
    assert stage.report(Report(refused=True, retry_after=7)) == Rest(_HOST, 7.0)
    assert stage.report(Report(refused=True, retry_after=3)) == Rest(_HOST, 7.0)
    stage.clock.advance(2)
    assert stage.report(_REFUSED) == Rest(_HOST, 5.0)
    assert stage.report(Report(refused=True, retry_after=600)) == Rest(_HOST, 600.0, True)
    stage.clock.advance(599)
    assert stage.acquire("one").why is Why.GIVEN_UP
    stage.clock.advance(1)
    assert stage.acquire("one").why is Why.HALF_OPEN
    assert stage.report(Report(refused=True, retry_after=0)) == Rest(_HOST, policy.SHORTEST_RETRY_AFTER_SECONDS, True)


def test_several_refusals_at_once_are_one_rest(stage: Stage) -> None:
    """The refusals of all open requests count as one, so they do not double the rest."""
    rests = [stage.report(_REFUSED, holder) for holder in ("one", "two", "three")]
    assert rests == [Rest(_HOST, policy.FIRST_REFUSED_REST_SECONDS)] * 3
    stage.clock.advance(policy.FIRST_REFUSED_REST_SECONDS)
    assert stage.acquire("one").rested == 1


def test_dead_host_is_given_up_after_a_few_failures(stage: Stage) -> None:
    """Five failed connections in a row let the host rest. After two failed probes, it is given up."""
    for _ in range(policy.FAILURES_BEFORE_REST - 1):
        assert stage.report(_UNREACHABLE) is None
    stage.report(_OK)
    for _ in range(policy.FAILURES_BEFORE_REST - 1):
        assert stage.report(_UNREACHABLE) is None
    assert stage.report(_UNREACHABLE) == Rest(_HOST, 5.0)
    for seconds in (10.0, 20.0):
        stage.clock.advance(seconds)
        assert stage.acquire("one").why is Why.HALF_OPEN
        assert stage.report(_UNREACHABLE) == Rest(_HOST, seconds, seconds == 20.0)
        stage.registry.renew("one", {_HOST: 0})
    stage.clock.advance(20)
    assert stage.acquire("one").why is Why.HALF_OPEN
    assert stage.report(_OK) is None
    assert stage.acquire("one", 8).why is Why.GRANTED


def test_only_the_answer_to_the_probe_counts(stage: Stage) -> None:
    """While a host is probed, late answers to requests from before the rest change nothing."""
    stage.report(_REFUSED)
    stage.clock.advance(0.25)
    assert stage.report(_OK) == Rest(_HOST, 0.75)
    stage.clock.advance(0.75)
    assert stage.acquire("one").why is Why.HALF_OPEN
    for report in (_OK, _REFUSED, _UNREACHABLE):
        assert stage.report(report, "late") is None
    assert stage.acquire("two").why is Why.HALF_OPEN
    assert stage.report(_OK, "one") is None
    assert stage.acquire("two").why is Why.GRANTED


def test_lost_probe_is_repeated(stage: Stage) -> None:
    """If the holder of the probe dies, another holder gets a probe when the lease has expired."""
    stage.report(_REFUSED)
    stage.clock.advance(5)
    assert stage.acquire("dead").permits == 1
    stage.clock.advance(policy.LEASE_SECONDS)
    assert stage.acquire("one").permits == 0
    stage.clock.advance(policy.DOUBT_SECONDS)
    assert stage.acquire("one").permits == 1
    assert stage.report(_REFUSED, "dead") is None
    assert stage.report(_OK, "one") is None


def test_answers_with_a_renewal_count_like_a_report(stage: Stage) -> None:
    """Good answers that come with a renewal raise a reduced limit, unless the run is not adaptive."""
    stage.acquire("one", 8)
    stage.report(Report(slow=1))
    for adaptive, limit in ((False, 4), (True, 5)):
        renewal = stage.registry.renew("one", {_HOST: 8}, {_HOST: Answers(4, 0.1, adaptive)})[_HOST]
        assert renewal.share == limit


def test_limit_grows_again_after_a_rest(stage: Stage) -> None:
    """After a rest, the limit doubles up to half of the old limit, and then grows by one per round of answers."""
    stage.acquire("one", 1)
    stage.registry.renew("one", {_HOST: 0})
    stage.report(_REFUSED)
    stage.clock.advance(5)
    stage.acquire("one", 1)
    stage.report(_OK)
    stage.registry.renew("one", {_HOST: 0})
    assert stage.limit_is(2)
    stage.report(Report(ok=2, latency=0.1))
    assert stage.limit_is(4)
    stage.report(Report(ok=3, latency=0.1))
    assert stage.limit_is(4)
    stage.report(Report(ok=1, latency=0.1))
    assert stage.limit_is(5)
    stage.report(Report(ok=100, latency=0.1))
    assert stage.limit_is(8)


def test_timeouts_halve_the_limit_at_most_once_a_second(stage: Stage) -> None:
    """The limit of a host with timeouts falls to a half, a quarter and at least one, in steps of a second."""
    assert stage.limit_is(8)
    for permits in (4, 2, 1, 1):
        stage.report(Report(slow=3))
        stage.report(Report(slow=1))
        assert stage.limit_is(permits)
        stage.clock.advance(policy.REDUCTION_SECONDS)


def test_rising_latency_halves_the_limit(stage: Stage) -> None:
    """A host counts as slow if it takes over a second and twice its best time; a host that is always slow does not."""
    assert stage.limit_is(8)
    stage.report(Report(ok=5, latency=3.0))
    stage.report(Report(ok=5, latency=5.0))
    assert stage.limit_is(8)
    stage.report(Report(ok=50, latency=9.0))
    assert stage.limit_is(4)
    for _ in range(3):
        stage.clock.advance(policy.REDUCTION_SECONDS)
        stage.report(Report(ok=1, latency=9.0))
    assert stage.limit_is(4)


def test_slow_host_recovers_from_a_rest(stage: Stage) -> None:
    """A host that became slow grows again after a rest, up to about half of its limit."""
    stage.report(Report(ok=50, latency=0.1))
    stage.report(_REFUSED)
    stage.clock.advance(policy.FIRST_REFUSED_REST_SECONDS)
    assert stage.acquire("one").why is Why.HALF_OPEN
    stage.report(Report(ok=1, latency=9.0))
    stage.registry.renew("one", {_HOST: 0})
    for _ in range(20):
        stage.clock.advance(policy.REDUCTION_SECONDS)
        stage.report(Report(ok=4, latency=9.0))
    assert stage.acquire("two", 8).permits in (4, 5)


def test_without_adaptation_only_limit_and_rate_count(stage: Stage) -> None:
    """A run without ``--adaptive`` neither lets hosts rest nor heeds the rests that other runs caused."""
    assert stage.report(_REFUSED, adaptive=False) is None
    stage.report(Report(slow=9), adaptive=False)
    assert stage.acquire("one", 8).permits == 8
    stage.registry.renew("one", {_HOST: 0})
    assert stage.report(_REFUSED) is not None
    assert stage.acquire("one", 8).why is Why.RESTING
    assert stage.acquire("one", 8, adaptive=False).permits == 8


def test_renewal_tells_of_a_rest(stage: Stage) -> None:
    """A process that missed the message of a rest learns of the rest when it renews its lease."""
    stage.acquire("one", 8)
    stage.report(_REFUSED, "two")
    renewal = stage.registry.renew("one", {_HOST: 8})[_HOST]
    assert (renewal.share, renewal.resting) == (0, 1.0)
    stage.clock.advance(1)
    # Permits from before the rest are no probes.
    assert stage.registry.renew("one", {_HOST: 8})[_HOST].share == 0
    stage.registry.renew("one", {_HOST: 0})
    stage.acquire("one")
    assert stage.registry.renew("one", {_HOST: 1})[_HOST].share == 1


def test_stopping_process_leaves_its_permits(stage: Stage) -> None:
    """A process that stops gives its permits back at once."""
    stage.acquire("one", 8)
    stage.registry.forget("one", [_HOST, "unknown.example"])
    assert stage.acquire("two", 8).permits == 8
