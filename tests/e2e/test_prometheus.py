"""With the documented configuration, a real Prometheus reads a fleet, and all queries, rules and panels work."""

from __future__ import annotations

import json
import math
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from producer.local_fleet.demo_process import DemoProcess
from tests.conftest import required
from tests.flower import RunningFleet, running_fleet
from tests.integration import processes
from tests.metrics import free_ports

_CONFIG = processes.ROOT / "config" / "monitoring"
_QUERIES = re.findall(r"```promql\n(.*?)```", (processes.ROOT / "docs" / "monitoring.md").read_text(), re.DOTALL)
_PANELS = [panel for panel in json.loads((_CONFIG / "dashboard.json").read_text())["panels"] if "targets" in panel]
_FLOWER = 'sum(flower_events_total{task="tasks.jobs.fetch_image",type="task-%s"})'
_WORKERS = 'sum(imagefleet_images_total{status%s"success"})'


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API. A query with an error fails the test."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as response:
            return json.load(response)["data"]

    def value(self, query: str) -> float:
        """Return the single value of a query, or NaN while the query has no value."""
        found = self.get("query", query=query)["result"]
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
def ports() -> int:
    """Return the first of three consecutive ports, for the metrics of two workers and a command."""
    return free_ports(3)


@pytest.fixture(scope="module")
def fleet(demo: DemoProcess, ports: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Start a fleet of two workers with metrics, and with five slots each."""
    env = {"IMAGEFLEET_ALLOW_NETWORKS": demo.address, "IMAGEFLEET_METRICS_PORT": str(ports)}
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(folder, "--workers", "2", "--concurrency", "5", env=env) as started:
        yield started


@pytest.fixture(scope="module")
def prometheus(fleet: RunningFleet, ports: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start a Prometheus with the documented configuration, but with the fleet's ports and a shorter interval."""
    program = required("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    text = (_CONFIG / "prometheus.yml").read_text()
    changes = {
        "127.0.0.1:5555": fleet.flower.url.removeprefix("http://"),
        "127.0.0.1:9750": f"127.0.0.1:{ports}",
        "127.0.0.1:9751": f"127.0.0.1:{ports + 1}",
        "127.0.0.1:9740": f"127.0.0.1:{ports + 2}",
        "15s": "1s",
        "12s": "1s",
    }
    for documented, used in changes.items():
        assert documented in text
        text = text.replace(documented, used)
    (folder / "prometheus.yml").write_text(text)
    (folder / "alerts.yml").write_text((_CONFIG / "alerts.yml").read_text())
    port = processes.free_port()
    argv = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with processes.started("prometheus", [*argv, f"--web.listen-address=127.0.0.1:{port}"], folder) as process:
        server = Prometheus(f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            assert process.process.poll() is None, process.err
            return server.is_ready()

        processes.eventually(is_ready, "Prometheus")
        yield server


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-compose.yml"])
def test_configuration_is_valid(name: str) -> None:
    """Prometheus's own check accepts the configurations, and finds the alert rules."""
    output = promtool("check", "config", str(_CONFIG / name))
    assert "is valid prometheus config file syntax" in output
    assert "11 rules found" in output


def test_alerts_fire_and_end() -> None:
    """Each alert fires in the situation that its text describes, and in no other."""
    assert "SUCCESS" in promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))
    tested = Path(__file__).with_name("alerts_test.yml").read_text()
    names = re.findall(r"alert: (\w+)", (_CONFIG / "alerts.yml").read_text())
    assert set(names) == set(re.findall(r"alertname: (\w+)", tested))


def test_only_metrics_need_no_password(fleet: RunningFleet) -> None:
    """Prometheus reads Flower's metrics without a password. All other pages of Flower require a password."""
    assert fleet.flower.get("/metrics")[0] == 200
    assert {fleet.flower.get(path)[0] for path in ("/", "/tasks", "/api/workers", "/metrics/", "/nowhere")} == {401}


def test_counters_follow_the_runs(prometheus: Prometheus, fleet: RunningFleet, demo: DemoProcess) -> None:
    """Workers and Flower count the same images."""
    ready = 'sum(up{job="imagefleet-workers"}) + sum(up{job="imagefleet-flower"})'
    processes.eventually(lambda: prometheus.value(ready) == 3, "two workers and Flower")
    urls = [f"{demo.url}/images/{number}.jpg" for number in range(20)]
    urls += [f"{demo.url}/fault/not-found?{number}" for number in range(5)]
    # Prometheus computes a rate of Flower's counters only if a worker's counter grows after Prometheus has read the
    # counter for the first time. Two workers share three turns, so at least one worker gets two turns.
    for turn in (1, 2, 3):
        fleet.run(f"turn-{turn}", urls)
        ended = [20.0 * turn, 5.0 * turn] * 2
        processes.eventually(partial(_have_counts, prometheus, ended), f"{ended} saved and failed images")
    assert prometheus.value('sum(flower_task_runtime_seconds_count{task="tasks.jobs.fetch_image"})') == 75
    assert prometheus.value("sum(imagefleet_image_duration_seconds_count)") == 75
    assert prometheus.value("sum(flower_worker_online)") == 2


def test_every_query_has_a_value_during_a_run(
    prometheus: Prometheus, fleet: RunningFleet, demo: DemoProcess, ports: int, tmp_path: Path
) -> None:
    """Each query of the docs and of the dashboard returns values, and each alert rule can be evaluated.

    When the run is complete, Prometheus reads the totals of its manifests, and then the command ends.
    """
    urls = [f"{demo.url}/images/{number}.jpg?latency=0.2" for number in range(300)]
    urls += [f"{demo.url}/fault/not-found?{number}" for number in range(30)]
    source = tmp_path / "urls.txt"
    source.write_text("\n".join(urls))
    argv = processes.command(["run", source, "--out", fleet.root / "watched", "--broker", fleet.broker, "--json"])
    with processes.started("run", [*argv, "--metrics-port", str(ports + 2)], tmp_path) as run:
        processes.eventually(lambda: prometheus.value("imagefleet_run_planned_images") == 330, "the command's metrics")
        assert len(_QUERIES) >= 8
        for query in (*_QUERIES, *_panel_queries()):
            processes.eventually(partial(_has_value, prometheus, query), query)
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert {(rule["health"], rule["state"]) for rule in rules} == {("ok", "inactive")}
        ended = run.wait(60).json()
    assert (ended["success"], ended["reasons"]) == (300, {"http_4xx": 30})
    # The target is down now, so its last values have ended. For Prometheus, an empty label is no label.
    last = {
        series["metric"].get("reason", ""): float(series["value"][1])
        for series in prometheus.get("query", query="last_over_time(imagefleet_run_images[1m]) > 0")["result"]
    }
    assert last == {"": 300, "http_4xx": 30}
    assert prometheus.value("max_over_time(imagefleet_run_complete[1m])") == 1


def _panel_queries() -> list[str]:
    """Return the queries of the dashboard, with Grafana's variable for the interval replaced."""
    queries = [target["expr"] for panel in _PANELS for target in panel["targets"]]
    assert len(queries) > 25
    return [query.replace("$__rate_interval", "10s") for query in queries]


def _have_counts(prometheus: Prometheus, wanted: list[float]) -> bool:
    queries = [_WORKERS % "=", _WORKERS % "!=", _FLOWER % "succeeded", _FLOWER % "failed"]
    return [prometheus.value(query) for query in queries] == wanted


def _has_value(prometheus: Prometheus, query: str) -> bool:
    values = [float(series["value"][1]) for series in prometheus.get("query", query=query)["result"]]
    return bool(values) and not any(map(math.isnan, values))


def promtool(*arguments: str) -> str:
    """Run Prometheus's tool, and return its output."""
    done = subprocess.run([required("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
