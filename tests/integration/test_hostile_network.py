"""In a network where every forbidden address answers, workers connect to none, whatever URLs and DNS say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_urls import URLS
from tests.integration.hostile_network import GOOD, NAMES


@pytest.fixture(scope="module")
def report(possible_namespace: tuple[list[str], str]) -> Any:
    """Give the report of the process inside a namespace, or of a simulation where none can be created."""
    prefix, _ = possible_namespace
    command = [*prefix, sys.executable, "-m", "tests.integration.hostile_network", *([] if prefix else ["simulated"])]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_no_forbidden_address_is_reached(report: Any) -> None:
    """None of the hostile URLs and names leads to a connection."""
    assert report["reached_by_hostile"] == {}


@pytest.mark.parametrize(
    "name", [*URLS, *(name for name in NAMES if name not in ("good.example", "rebinding.example"))]
)
def test_hostile_url_fails_for_its_reason(report: Any, name: str) -> None:
    """Each download fails because of an invalid URL, a blocked address, or a name that does not exist."""
    assert report["hostile"][name] in ("invalid_url", "blocked_address", "dns")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("good.example", "rebinding.example")])
def test_name_with_one_forbidden_address_is_refused(report: Any, name: str) -> None:
    """A name is refused if any of its addresses is forbidden, wherever this address is in the list."""
    assert report["hostile"][name] == "blocked_address"


def test_public_address_is_reached(report: Any) -> None:
    """A public address in the same network can be reached, so it is the guard that causes the refusals above."""
    assert report["good"] == "success"


def test_dns_rebinding_is_refused(report: Any) -> None:
    """A name that turns bad between two lookups is fetched from its checked address, and refused at the next lookup."""
    first, lookups, second = report["rebinding"]
    assert (first, lookups, second) == ("success", 1, "blocked_address")
    assert set(report["reached"]) == {GOOD}
