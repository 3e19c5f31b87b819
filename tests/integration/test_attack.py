"""A worker's process whose slots are all under attack ends every download in time, and its memory stays bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacking
from tests.integration.attack import AT_ONCE, CAP, DEADLINE, SLOTS, WINDOW
from tests.integration.test_faults import FAULTS

#: What a server can do: a path, and the reason in which it ends.
_HOSTILE = {
    fault.removeprefix("DEMO"): reason
    for fault, reason in FAULTS.items()
    # What is good at the second visit is no attack.
    if fault.startswith("DEMO/fault/") and not fault.endswith("-once")
}


@pytest.fixture(scope="module")
def attacked(demo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the process tells after the attack."""
    if not Path("/proc/self/clear_refs").exists():
        lacking("memory is measured by Linux's /proc")
    command = [sys.executable, "-m", "tests.integration.attack", demo_url, str(tmp_path_factory.mktemp("attack"))]
    root = Path(__file__).parents[2]
    ended = subprocess.run([*command, *_HOSTILE], capture_output=True, text=True, timeout=100, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_there_are_many_behaviours(attacked: Any) -> None:
    """All slots are taken at once, by at least thirty ways of being hostile."""
    assert len(_HOSTILE) >= 30
    assert len(attacked["ended"]) == len(_HOSTILE) + 2 * SLOTS + AT_ONCE


def test_each_ends_in_time_and_as_what_it_is(attacked: Any) -> None:
    """Each download has its exact reason, within its deadline and a tenth."""
    for path, reason, seconds in attacked["ended"]:
        assert (path, reason) == (path, _HOSTILE[path])
        assert seconds <= DEADLINE * 1.1, path


def test_memory_stays_within_slots_and_cap(attacked: Any) -> None:
    """The worst moment takes no more than each slot's cap."""
    assert attacked["grown"] <= SLOTS * CAP


def test_windows_are_bounded(attacked: Any) -> None:
    """A body in br or zstd takes its window besides, which no server can make larger."""
    assert attacked["grown_with_windows"] <= AT_ONCE * (CAP + WINDOW)
