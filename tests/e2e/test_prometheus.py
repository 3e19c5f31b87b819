"""A real Prometheus reads Flower's numbers by the documented file, and the documented queries answer."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial

import pytest

from producer.demo_process import DemoProcess
from tests.conftest import required
from tests.flower import RunningFleet
from tests.integration import parts

_CONFIG = parts.ROOT / "config" / "prometheus.yml"
_QUERIES = re.findall(r"```promql\n(.*?)```", (parts.ROOT / "docs" / "monitoring.md").read_text(), re.DOTALL)
_IMAGES = 'sum(flower_events_total{task="tasks.jobs.fetch_image",type="task-%s"})'


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def value(self, query: str) -> float:
        """Return the one value that a query has; not a number while there is none."""
        words = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{words}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        assert len(found) <= 1
        return float(found[0]["value"][1]) if found else math.nan

    def ready(self) -> bool:
        """Return whether it answers."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def prometheus(fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Give a Prometheus with the documented file; the fleet's port stands in it, and a shorter interval."""
    program = required("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    documented = _CONFIG.read_text()
    text = documented.replace("127.0.0.1:5555", fleet.flower.url.removeprefix("http://")).replace("15s", "1s")
    assert "127.0.0.1:5555" in documented
    assert "15s" in documented
    (folder / "prometheus.yml").write_text(text)
    port = parts.free_port()
    argv = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with parts.started("prometheus", [*argv, f"--web.listen-address=127.0.0.1:{port}"], folder) as process:
        server = Prometheus(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            assert process.process.poll() is None, process.err
            return server.ready()

        parts.eventually(ready, "Prometheus")
        yield server


def test_only_the_numbers_are_open(fleet: RunningFleet) -> None:
    """Prometheus needs no password, and whoever has none gets nothing else."""
    assert fleet.flower.get("/metrics")[0] == 200
    assert {fleet.flower.get(path)[0] for path in ("/", "/tasks", "/api/workers", "/metrics/", "/nowhere")} == {401}


def test_counters_move(prometheus: Prometheus, fleet: RunningFleet, demo: DemoProcess) -> None:
    """The target is up; saved and failed images are counted apart; every query of the docs has an answer."""
    parts.eventually(lambda: prometheus.value('up{job="imagefleet"}') == 1, "the target")
    urls = [f"{demo.url}/images/{number}.jpg" for number in range(20)]
    urls += [f"{demo.url}/fault/not-found?{number}" for number in range(5)]
    # A rate needs a counter of one worker to grow after it was seen, and there are two workers: the third turn is at a
    # worker that had one before.
    for turn in (1, 2, 3):
        fleet.run(f"turn-{turn}", urls)
        ended = [20.0 * turn, 5.0 * turn]
        parts.eventually(partial(_counted, prometheus, ended), f"{ended} images that were saved and failed")
    assert prometheus.value('sum(flower_task_runtime_seconds_count{task="tasks.jobs.fetch_image"})') == 75
    assert prometheus.value("sum(flower_worker_online)") == 2
    assert len(_QUERIES) == 5
    for query in _QUERIES:
        # Nobody is at work any more; all else has grown.
        least = -1 if "currently_executing" in query else 0
        parts.eventually(partial(_exceeds, prometheus, query, least), query)


def _counted(prometheus: Prometheus, wanted: list[float]) -> bool:
    return [prometheus.value(_IMAGES % how) for how in ("succeeded", "failed")] == wanted


def _exceeds(prometheus: Prometheus, query: str, least: float) -> bool:
    return prometheus.value(query) > least
