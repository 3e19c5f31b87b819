"""The progress of a run is one value, and JSON keeps all of it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import orjson
import pytest

from producer.dispatch.progress import Progress, Timing
from tests.unit.cli.progresses import FULL


def test_progress_survives_json() -> None:
    """Redis and ``--json`` get the same value, and `producer status` gets it back unchanged."""
    published = orjson.dumps(FULL)
    assert Progress.from_json(json.loads(published)) == FULL
    assert json.loads(published) == json.loads(json.dumps(asdict(FULL)))


def test_run_is_finished_with_its_last_manifest() -> None:
    """The end of a run is the end of its Total Execution Time, not the end of the work that follows."""
    now = time.monotonic()
    timing = Timing(first_sent=now - 70, last_done=now - 10)
    assert timing.finished_at == pytest.approx(time.time() - 10, abs=1)
    assert timing.finished_at - timing.started_at == pytest.approx(timing.wall_seconds, abs=0.1)
    assert Timing().finished_at == pytest.approx(time.time(), abs=1)
