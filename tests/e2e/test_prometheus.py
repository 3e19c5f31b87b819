"""With the documented configuration, a real Prometheus reads Flower's metrics, and the documented queries work."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial

import pytest

from producer.local_fleet.demo_process import DemoProcess
from tests.conftest import required
from tests.flower import RunningFleet
from tests.integration import processes

_CONFIG = processes.ROOT / "config" / "prometheus.yml"
_QUERIES = re.findall(r"```promql\n(.*?)```", (processes.ROOT / "docs" / "monitoring.md").read_text(), re.DOTALL)
_IMAGES = 'sum(flower_events_total{task="tasks.jobs.fetch_image",type="task-%s"})'


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def value(self, query: str) -> float:
        """Return the single value of a query, or NaN while the query has no value."""
        parameters = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{parameters}", timeout=10) as response:
            found = json.load(response)["data"]["result"]
        assert len(found) <= 1
        return float(found[0]["value"][1]) if found else math.nan

    def is_ready(self) -> bool:
        """Return whether Prometheus answers requests."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def prometheus(fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start a Prometheus with the documented configuration, but with the fleet's port and a shorter interval."""
    program = required("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    documented = _CONFIG.read_text()
    text = documented.replace("127.0.0.1:5555", fleet.flower.url.removeprefix("http://")).replace("15s", "1s")
    assert "127.0.0.1:5555" in documented
    assert "15s" in documented
    (folder / "prometheus.yml").write_text(text)
    port = processes.free_port()
    argv = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with processes.started("prometheus", [*argv, f"--web.listen-address=127.0.0.1:{port}"], folder) as process:
        server = Prometheus(f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            assert process.process.poll() is None, process.err
            return server.is_ready()

        processes.eventually(is_ready, "Prometheus")
        yield server


def test_only_metrics_need_no_password(fleet: RunningFleet) -> None:
    """Prometheus reads the metrics without a password. All other pages require a password."""
    assert fleet.flower.get("/metrics")[0] == 200
    assert {fleet.flower.get(path)[0] for path in ("/", "/tasks", "/api/workers", "/metrics/", "/nowhere")} == {401}


def test_counters_follow_the_runs(prometheus: Prometheus, fleet: RunningFleet, demo: DemoProcess) -> None:
    """The target is up, saved and failed images are counted separately, and every query of the docs returns a value."""
    processes.eventually(lambda: prometheus.value('up{job="imagefleet"}') == 1, "the target")
    urls = [f"{demo.url}/images/{number}.jpg" for number in range(20)]
    urls += [f"{demo.url}/fault/not-found?{number}" for number in range(5)]
    # Prometheus computes a rate only if a worker's counter grows after Prometheus has read the counter for the first
    # time. Two workers share three turns, so at least one worker gets two turns.
    for turn in (1, 2, 3):
        fleet.run(f"turn-{turn}", urls)
        ended = [20.0 * turn, 5.0 * turn]
        processes.eventually(partial(_have_counts, prometheus, ended), f"{ended} saved and failed images")
    assert prometheus.value('sum(flower_task_runtime_seconds_count{task="tasks.jobs.fetch_image"})') == 75
    assert prometheus.value("sum(flower_worker_online)") == 2
    assert len(_QUERIES) == 5
    for query in _QUERIES:
        # The number of running tasks is 0, because no task is running any more. All other values have grown.
        least = -1 if "currently_executing" in query else 0
        processes.eventually(partial(_exceeds, prometheus, query, least), query)


def _have_counts(prometheus: Prometheus, wanted: list[float]) -> bool:
    return [prometheus.value(_IMAGES % how) for how in ("succeeded", "failed")] == wanted


def _exceeds(prometheus: Prometheus, query: str, least: float) -> bool:
    return prometheus.value(query) > least
