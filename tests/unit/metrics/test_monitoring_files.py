"""The dashboard and the alert rules use metrics that exist, and the dashboard is well-formed."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from docs.metric_tables import run_metrics, series_name, worker_metrics
from docs.produce import ROOT

_FOLDER = ROOT / "config" / "monitoring"
#: Metrics of prometheus_client and of Prometheus itself.
_FOREIGN = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds", "up"}
_NAME = re.compile(r"\b(?:imagefleet_|process_)\w+")


def known_names() -> set[str]:
    """Return the names of all series that workers and commands serve."""
    metrics = [*worker_metrics(), *run_metrics()]
    names = {series_name(metric) for metric in metrics}
    return names | {sample.name for metric in metrics for sample in metric.samples} | _FOREIGN


@pytest.fixture(scope="module")
def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard."""
    return list(json.loads((_FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"])


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_queries_use_existing_metrics(name: str) -> None:
    """No query has the name of a metric that nobody serves."""
    used = set(_NAME.findall((_FOLDER / name).read_text(encoding="utf-8")))
    assert used
    assert used - known_names() == set()


def test_panels_are_explained_and_do_not_overlap(panels: list[dict[str, Any]]) -> None:
    """Each panel has an id, a title, a description and a unit, and a place of its own in the grid of 24 columns."""
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in panels) == 24
