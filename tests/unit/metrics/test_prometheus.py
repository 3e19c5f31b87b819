"""A worker's metrics count Outcomes, and have few series."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tasks.metrics.counters import Deferral, WorkerMetrics, WorkerState
from tasks.metrics.prometheus import PrometheusMetrics, create_registry
from tasks.model import Outcome, Reason
from tasks.phases import PHASE_NAMES
from tests.unit.conftest import success

#: A label with a host, a URL or a run would create a series for each of its values.
_LABELS = {"status", "reason", "phase", "why", "result", "version", "le"}
_FAILED = Outcome("00000001", Reason.DNS.status, Reason.DNS, attempts=3, fetch_seconds=4.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return an empty registry with the metrics of the process."""
    return create_registry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PrometheusMetrics:
    """Return the counters of a worker with three busy slots, whose network does not work."""
    return PrometheusMetrics(registry, WorkerState(lambda: 3, lambda: 5, lambda: True))


def test_counts_images_by_status_and_reason(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """Each Outcome counts once, with its reason, size, attempts and duration."""
    for outcome in (success(0, bytes=7, attempts=1), success(1, bytes=5, attempts=2), _FAILED):
        metrics.count_image(outcome)
    metrics.update()
    saved, failed = {"status": "success", "reason": ""}, {"status": "failed_to_download", "reason": "dns"}
    assert registry.get_sample_value("imagefleet_images_total", saved) == 2
    assert registry.get_sample_value("imagefleet_images_total", failed) == 1
    assert registry.get_sample_value("imagefleet_saved_bytes_total") == 12
    assert registry.get_sample_value("imagefleet_attempts_total") == 6
    duration = "imagefleet_image_duration_seconds"
    assert registry.get_sample_value(f"{duration}_sum", {"status": "failed_to_download"}) == 4.0
    assert registry.get_sample_value(f"{duration}_bucket", {"status": "failed_to_download", "le": "2.5"}) == 0
    assert registry.get_sample_value(f"{duration}_bucket", {"status": "failed_to_download", "le": "5.0"}) == 1


def test_threads_lose_no_image(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """Images that several threads count are all in the registry after an update, and only once."""
    outcome = success(0, bytes=2)

    def count() -> None:
        for _ in range(3_333):
            metrics.count_image(outcome)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(count)
    metrics.update()
    metrics.update()
    assert registry.get_sample_value("imagefleet_images_total", {"status": "success", "reason": ""}) == 13_332
    assert registry.get_sample_value("imagefleet_saved_bytes_total") == 26_664


def test_counts_retries(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """Attempts after the first one count as retries. Images without an attempt do not hide the retries of others."""
    duplicate = replace(_FAILED, reason=Reason.DUPLICATE, attempts=0)
    for outcome in (success(0, attempts=1), _FAILED, duplicate, duplicate, duplicate):
        metrics.count_image(outcome)
    metrics.update()
    assert registry.get_sample_value("imagefleet_attempts_total") == 4
    assert registry.get_sample_value("imagefleet_retries_total") == 2


def test_adds_up_the_phases(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """The times of all images are added up by phase. Images without phases change nothing."""
    for phases in ((1_500_000, 0, 250_000, 0, 0, 1), (500_000, 0, 0, 0, 0, 0), None):
        metrics.count_image(success(0, phases=phases))
    metrics.update()
    found = {name: registry.get_sample_value("imagefleet_phase_seconds_total", {"phase": name}) for name in PHASE_NAMES}
    assert found == {"queued": 2.0, "connect": 0, "first_byte": 0.25, "body": 0, "verify": 0, "save": 1e-6}


def test_every_reason_has_a_series_from_the_start(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """Prometheus sees the first failure of each reason as an increase from 0."""
    for reason in Reason:
        labels: dict[str, str] = {"status": reason.status, "reason": reason}
        assert registry.get_sample_value("imagefleet_images_total", labels) == 0
        metrics.count_image(replace(_FAILED, reason=reason, status=reason.status))
        metrics.update()
        assert registry.get_sample_value("imagefleet_images_total", labels) == 1


def test_shows_deferrals_redeliveries_and_shards(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """Tasks without an Outcome and collected shards have counters of their own."""
    for why in Deferral:
        metrics.count_deferral(why)
    metrics.count_redelivery()
    with metrics.collecting():
        pass
    with pytest.raises(ValueError, match="disk"), metrics.collecting():
        raise ValueError("disk")
    assert {why: registry.get_sample_value("imagefleet_deferred_images_total", {"why": why}) for why in Deferral} == {
        "host_busy": 1,
        "long_wait": 1,
        "other_worker": 1,
    }
    assert registry.get_sample_value("imagefleet_redelivered_images_total") == 1
    for result in ("collected", "failed"):
        assert registry.get_sample_value("imagefleet_shards_total", {"result": result}) == 1
    assert registry.get_sample_value("imagefleet_collect_duration_seconds_count") == 1


def test_looks_up_the_state_when_read(registry: CollectorRegistry, metrics: PrometheusMetrics) -> None:
    """The slots, the held images and the fitness are those at the time of reading."""
    metrics.set_slots(16)
    names = ("imagefleet_slots", "imagefleet_busy_slots", "imagefleet_held_images", "imagefleet_unfit")
    assert [registry.get_sample_value(name) for name in names] == [16, 3, 5, 1]


@pytest.mark.usefixtures("metrics")
def test_series_are_few_and_name_no_host(registry: CollectorRegistry) -> None:
    """A worker has about a hundred series however long it runs, and no label for a host, a URL or a run."""
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert {label for line in lines for label in re.findall(r'(\w+)="', line)} == _LABELS
    assert len(lines) < 130


def test_nothing_is_counted_by_default() -> None:
    """The counters of a worker without metrics accept the same calls."""
    metrics = WorkerMetrics()
    metrics.count_image(_FAILED)
    metrics.count_deferral(Deferral.HOST_BUSY)
    metrics.count_redelivery()
    metrics.set_slots(1)
    with metrics.collecting():
        pass
