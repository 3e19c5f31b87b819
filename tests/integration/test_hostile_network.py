"""Workers connect to no forbidden address, whatever URLs and DNS say, even if every forbidden address answers."""

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
    """Give the report of a process inside a namespace. Where no namespace can be created, simulate one."""
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
    """A name is refused if any of its addresses is forbidden, at any position in the list."""
    assert report["hostile"][name] == "blocked_address"


def test_public_address_is_reached(report: Any) -> None:
    """A public address in the same network can be reached. This shows that the guard causes the refusals above."""
    assert report["good"] == "success"


def test_dns_rebinding_is_refused(report: Any) -> None:
    """If a name turns bad between two lookups, the checked address is used, and the next lookup refuses the name."""
    first, lookups, second = report["rebinding"]
    assert (first, lookups, second) == ("success", 1, "blocked_address")
    assert set(report["reached"]) == {GOOD}
