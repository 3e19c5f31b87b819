"""In a Python program, the library call does the same as the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from producer.local_fleet.supervisor_client import ROOT

_PROGRAM = """
import json, sys
from producer import (
    Broker, FetchOptions, IncrementalMode, LocalFleet, RunConfig, UsageError, download, resume, retry
)

demo, broker, out = sys.argv[1:]
urls = [f"{demo}/images/{number}.jpg" for number in range(5)] + [f"{demo}/fault/not-found", "not a URL"]
seen = []
workers = LocalFleet(workers=1, allow_networks=("127.0.0.1",)) if broker == "local" else Broker(broker)
config = RunConfig(FetchOptions(retries=0), shard_size=3)
result = download(iter(urls), out, config, workers, seen.append)
outcomes = [(outcome.key, outcome.ok, outcome.reason, outcome.path) for outcome in result.outcomes()]
again = retry(out, ["http_4xx"], workers)
done = resume(out, workers)
try:
    download(urls, out, config, workers)
except UsageError as error:
    refused = [error.what, error.hint]
extended = None
if broker != "local":
    extended = download(urls[:2], out, workers=workers, incremental=IncrementalMode.EXTEND)
print(json.dumps({
    "outcomes": outcomes,
    "seen": len(seen),
    "planned": seen[-1].planned,
    "reasons": result.summary.reasons,
    "before": again.before,
    "fetched": [result.images, again.images, done.images],
    "complete": [json.load(open(f"{out}/run.json"))["state"], done.completion is not None],
    "source": result.source,
    "refused": refused,
    "extended": extended and [extended.summary.total, extended.images, list(extended.outcomes())[-1].key],
}))
"""


def _run(*arguments: str | Path) -> dict[str, Any]:
    """Run the program above outside of the checkout, as a user does; return the output."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    return facts


@pytest.mark.parametrize("place", ["broker", "local"])
def test_program_downloads_and_reads_its_outcomes(place: str, fleet: str, demo_url: str, out: Path) -> None:
    """A program gets the result, the Outcomes in order, and the progress.

    This holds with workers at a broker and with a fleet that the program starts. The path of a local fleet's folder may
    have a comma, although commas separate the folders in a worker's settings.
    """
    out = out if place == "broker" else out / "cats, dogs" / "[1]"
    facts = _run(demo_url, fleet if place == "broker" else "local", out)
    keys = ["000000", "000001", "000002", "000010", "000011", "000012", "000020"]
    reasons = [None] * 5 + ["http_4xx", "invalid_url"]
    assert [row[:3] for row in facts["outcomes"]] == [
        [key, reason is None, reason] for key, reason in zip(keys, reasons, strict=True)
    ]
    assert all((out / path).is_file() for _, ok, _, path in facts["outcomes"] if ok)
    assert facts["reasons"] == {"http_4xx": 1, "invalid_url": 1}
    assert facts["planned"] == 7
    assert facts["seen"] > 0
    assert facts["before"] == {"http_4xx": 1}
    assert facts["fetched"] == [7, 1, 0]
    assert facts["complete"] == ["complete", True]
    assert facts["extended"] == ([9, 2, "000031"] if place == "broker" else None)
    assert facts["source"] == "(URLs from Python)"
    assert "already holds a run" in facts["refused"][0]
