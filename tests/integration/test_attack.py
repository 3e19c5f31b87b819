"""If all slots of a worker process are under attack, every download ends in time, and memory stays bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacking
from tests.integration.attack import AT_ONCE, BUFFERS, CAP, DEADLINE, SLOTS, WINDOW
from tests.integration.test_faults import FAULTS

#: Hostile routes of the demo server, each with the expected failure reason.
_HOSTILE = {
    fault.removeprefix("DEMO"): reason
    for fault, reason in FAULTS.items()
    # Routes that succeed at the second request are left out, because they are no attack.
    if fault.startswith("DEMO/fault/") and not fault.endswith("-once")
}


@pytest.fixture(scope="module")
def attacked(demo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the report that the process prints after the attack."""
    if not Path("/proc/self/clear_refs").exists():
        lacking("memory is measured by Linux's /proc")
    command = [sys.executable, "-m", "tests.integration.attack", demo_url, str(tmp_path_factory.mktemp("attack"))]
    root = Path(__file__).parents[2]
    ended = subprocess.run([*command, *_HOSTILE], capture_output=True, text=True, timeout=100, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_attack_has_enough_variety(attacked: Any) -> None:
    """At least thirty kinds of hostile behaviour take all slots at once."""
    assert len(_HOSTILE) >= 30
    assert len(attacked["ended"]) == len(_HOSTILE) + 2 * SLOTS + AT_ONCE


def test_each_download_ends_in_time_with_its_reason(attacked: Any) -> None:
    """Each download ends with the expected reason, within its deadline plus 10 %."""
    for path, reason, seconds in attacked["ended"]:
        assert (path, reason) == (path, _HOSTILE[path])
        assert seconds <= DEADLINE * 1.1, path


def test_memory_stays_within_the_slots_caps(attacked: Any) -> None:
    """Peak memory grows by at most the largest body and the buffers of each slot."""
    assert attacked["grown"] <= SLOTS * (CAP + BUFFERS)


def test_decoder_windows_are_bounded(attacked: Any) -> None:
    """A br or zstd body also needs the window of its decoder. No server can raise the size of this window."""
    assert attacked["grown_with_windows"] <= AT_ONCE * (CAP + WINDOW)
