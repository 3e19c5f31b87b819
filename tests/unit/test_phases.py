"""The time of a delivery is divided into phases, and each phase has the time of its own steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from producer.demo import DemoServer
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.fetch import FetchRequest, fetch
from tasks.model import ImageRequest, Outcome, Reason, RunOptions
from tasks.phases import PHASE_NAMES, Phase, PhaseClock
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import ONCE, success

_LATENCY = 0.15


def seconds(outcome: Outcome) -> dict[str, float]:
    """Return an Outcome's seconds by phase."""
    assert outcome.phases is not None
    return {name: microseconds / 1e6 for name, microseconds in zip(PHASE_NAMES, outcome.phases, strict=True)}


def test_clock_adds_up_phases() -> None:
    """A phase that begins twice has the sum of both times, and time outside of all phases counts for none."""
    now = iter([0, 1, 3, 6, 10, 15])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.phases.monotonic_ns", lambda: next(now) * 10**9)
        clock = PhaseClock()
        clock.enter(Phase.BODY)
        clock.enter(Phase.SAVE)
        clock.enter(Phase.WAITING)
        clock.enter(Phase.BODY)
        clock.add(Phase.QUEUED, 0.5)
        assert clock.finish() == (500_000, 0, 0, 7_000_000, 0, 3_000_000)


def test_download_has_the_times_of_its_phases(
    store: LocalStore, demo: DemoServer, allowed: list[str], sessions_to: Callable[..., Sessions]
) -> None:
    """A server's delay counts for the first byte. Only the first image of a connection has a phase to connect."""
    downloader, run = Downloader(sessions_to(*allowed)), RunOptions(str(store.root), 1000, ONCE)
    url = "http://{}:{}/images/1.jpg?latency={}".format(*demo.address, _LATENCY)
    outcomes = [fetch(FetchRequest(url, index, queued_seconds=0.25), run, store, downloader) for index in range(2)]
    first, second = map(seconds, outcomes)
    assert first["queued"] == second["queued"] == 0.25
    assert _LATENCY <= second["first_byte"] < outcomes[1].fetch_seconds
    assert (first["connect"] > 0, second["connect"]) == (True, 0.0)
    for outcome, times in zip(outcomes, (first, second), strict=True):
        assert outcome.ok
        assert all(times[name] > 0 for name in ("body", "verify", "save"))
        assert sum(times.values()) - 0.25 <= outcome.fetch_seconds + 0.001


def test_failed_download_has_the_times_until_its_failure(
    store: LocalStore, demo: DemoServer, downloader: Downloader
) -> None:
    """A failure counts for the phase in which it happened, and later phases have no time."""
    url = "http://{}:{}/fault/html".format(*demo.address)
    outcome = fetch(FetchRequest(url, 0), RunOptions(str(store.root), 1000, ONCE), store, downloader)
    assert outcome.reason is Reason.NOT_IMAGE
    times = seconds(outcome)
    assert times["verify"] > 0
    assert times["save"] == 0


def test_manifest_has_a_column_for_each_phase() -> None:
    """The phases of an Outcome become columns in seconds, and reading the manifest gives the Outcome again."""
    ref = ShardRef("", 0)
    measured = success(0, phases=(1_500_000, 0, 20_000, 300, 40, 5))
    outcomes = [measured, success(1)]
    table = plan.decode(plan.encode([ImageRequest(index, "http://a.example/") for index in range(2)], ref))
    found = manifest.decode(manifest.encode(table, outcomes, ref))
    row, unmeasured = found.select(manifest.PHASE_COLUMNS).to_pylist()
    assert list(row.values()) == [1.5, None, *map(pytest.approx, (0.02, 0.0003, 0.00004, 0.000005))]
    assert set(unmeasured.values()) == {None}
    assert list(manifest.outcomes(found)) == outcomes
    assert Outcome.from_json(measured.to_json()) == measured
