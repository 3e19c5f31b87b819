"""A slow, lossy or dead name server, and names that don't exist, cost no image of another name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import ROOT
from tests.integration.slow_names import SCENARIOS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(250)]


def run(namespace: list[str], scenario: str, folder: Path) -> Any:
    """Make a scenario's run inside the namespace, and return the facts that the program prints."""
    command = [*namespace, sys.executable, "-m", "tests.integration.slow_names", scenario, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["code"] in (0, 1), facts["err"]
    return facts


def test_slow_answers_hold_no_slot(namespace: list[str], tmp_path: Path) -> None:
    """If each answer takes half a second, the slots get images whose names are resolved. Each name costs one query."""
    facts = run(namespace, "slow", tmp_path)
    assert facts["report"]["success"] == len(SCENARIOS["slow"].hosts)
    assert facts["slot_seconds"] < 0.4
    assert set(facts["queries"].values()) == {1}


def test_unknown_names_cost_one_query(namespace: list[str], tmp_path: Path) -> None:
    """The 2,000 images of 20 names that don't exist cost hardly more queries than one image of each name."""
    facts = run(namespace, "unknown", tmp_path)
    assert facts["reasons"] == {"dns": 2000, "null": 100}
    unknown = [number for name, number in facts["queries"].items() if name.startswith("unknown")]
    assert len(unknown) == 20
    assert max(unknown) <= 3


def test_lost_queries_cost_no_image(namespace: list[str], tmp_path: Path) -> None:
    """If every second query gets no answer, all images are saved."""
    assert run(namespace, "lossy", tmp_path)["report"]["success"] == len(SCENARIOS["lossy"].hosts)


def test_outage_costs_no_image(namespace: list[str], tmp_path: Path) -> None:
    """If the name server answers nothing for five seconds, all images are saved after its return."""
    assert run(namespace, "outage", tmp_path)["report"]["success"] == len(SCENARIOS["outage"].hosts)


def test_silent_names_do_not_delay_others(namespace: list[str], tmp_path: Path) -> None:
    """While three names for each slot get no answer, the images of other names are saved without a wait in the slot."""
    facts = run(namespace, "silent", tmp_path)
    assert facts["reasons"] == {"dns": 48, "null": 200}
    assert facts["slot_seconds"] < 0.5
