"""The metrics of a command show the run's progress, and in the end the totals of its manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from producer.dispatch.progress import FleetCondition, Progress
from producer.output.summary import Summary
from producer.runs.run_metrics import RunMetrics
from tasks.model import Reason

_PROGRESS = Progress(
    success=70,
    failed=5,
    bytes=900,
    planned=200,
    plan_complete=True,
    done_before=20,
    reasons={"dns": 4, "http_4xx": 1},
    waiting=8,
    busiest_host="secret.example",
    busy_hosts=2,
    shards_in_flight=3,
    repaired=6,
    fleet=FleetCondition(workers=2, lost_workers=1, resting_hosts=4),
)


@pytest.fixture
def metrics() -> RunMetrics:
    """Return the metrics of a command that has not begun its run."""
    return RunMetrics()


@pytest.fixture
def registry(metrics: RunMetrics) -> CollectorRegistry:
    """Return a registry with these metrics."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Return the value of a metric of the run."""
    return registry.get_sample_value(f"imagefleet_{name}", labels)


def test_shows_the_progress(metrics: RunMetrics, registry: CollectorRegistry) -> None:
    """The numbers of the last progress are shown. Every reason has a value, and no host is named."""
    metrics.update(_PROGRESS)
    assert value(registry, "run_images", status="success", reason="") == 70
    found = {reason: value(registry, "run_images", status=reason.status, reason=reason) for reason in Reason}
    assert found == {**dict.fromkeys(Reason, 0), Reason.DNS: 4, Reason.HTTP_4XX: 1}
    wanted = {
        "complete": 0,
        "planned_images": 200,
        "plan_complete": 1,
        "saved_bytes": 900,
        "waiting_images": 8,
        "busy_hosts": 2,
        "resting_hosts": 4,
        "shards_in_flight": 3,
        "repaired_images": 6,
        "workers": 2,
        "lost_workers": 1,
    }
    assert {name: value(registry, f"run_{name}") for name in wanted} == wanted
    assert b"secret.example" not in generate_latest(registry)


def test_shows_the_totals_of_a_complete_run(metrics: RunMetrics, registry: CollectorRegistry) -> None:
    """At the end, the numbers are those of the manifests, with the images of earlier commands."""
    metrics.update(_PROGRESS)
    metrics.finish(Summary({"success": 193, "failed_to_download": 7}, {"dns": 7}, 1500, 2))
    assert metrics.is_finished
    assert value(registry, "run_complete") == 1
    assert value(registry, "run_images", status="success", reason="") == 193
    assert value(registry, "run_images", status="failed_to_download", reason="dns") == 7
    assert value(registry, "run_images", status="failed_to_download", reason="http_4xx") == 0
    names = ("planned_images", "saved_bytes", "workers")
    assert [value(registry, f"run_{name}") for name in names] == [200, 1500, None]


def test_tells_when_redis_is_unreachable(metrics: RunMetrics, registry: CollectorRegistry, tmp_path: Path) -> None:
    """Without Redis, the queues have no lengths, and all other metrics are served."""
    metrics.start("a-run", f"redis+socket://{tmp_path}/none.sock")
    metrics.update(_PROGRESS)
    assert value(registry, "redis_up") == 0
    assert value(registry, "queued_tasks", queue="images") is None
    assert value(registry, "run_images", status="success", reason="") == 70
    assert value(registry, "run_info", run_id="a-run") == 1
