"""The progress of a run is one value, and JSON keeps all of it."""

from __future__ import annotations

import json
from dataclasses import asdict

import orjson

from producer.dispatch.progress import Progress
from tests.unit.cli.progresses import FULL


def test_progress_survives_json() -> None:
    """Redis and ``--json`` get the same value, and `producer status` gets it back unchanged."""
    published = orjson.dumps(FULL)
    assert Progress.from_json(json.loads(published)) == FULL
    assert json.loads(published) == json.loads(json.dumps(asdict(FULL)))
