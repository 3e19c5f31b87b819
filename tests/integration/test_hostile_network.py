"""In a network where every forbidden address answers, nothing connects to one, whatever URLs and DNS say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import required
from tests.hostile_urls import URLS
from tests.integration.hostile_network import GOOD, NAMES


@pytest.fixture(scope="module")
def told(namespace: str) -> Any:
    """What the process inside the namespace tells."""
    command = [required("ip"), "netns", "exec", namespace, sys.executable, "-m", "tests.integration.hostile_network"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_nobody_is_reached(told: Any) -> None:
    """Of all hostile URLs and names, none leads to a single connection."""
    assert told["reached_by_hostile"] == {}


@pytest.mark.parametrize(
    "name", [*URLS, *(name for name in NAMES if name not in ("good.example", "rebinding.example"))]
)
def test_reason(told: Any, name: str) -> None:
    """Each ends as a URL that is none, an address that is refused, or a name that does not exist."""
    assert told["hostile"][name] in ("invalid_url", "blocked_address", "dns")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("good.example", "rebinding.example")])
def test_hostile_name_is_refused_for_its_address(told: Any, name: str) -> None:
    """A name with any address that is refused is refused, in whatever order and company the address comes."""
    assert told["hostile"][name] == "blocked_address"


def test_good_name_is_reached(told: Any) -> None:
    """The same network lets a public address be reached, so silence above is the guard's work."""
    assert told["good"] == "success"


def test_rebinding_gains_nothing(told: Any) -> None:
    """A name that turns bad between two look-ups is connected to where it was judged, and then refused."""
    first, asked, second = told["rebinding"]
    assert (first, asked, second) == ("success", 1, "blocked_address")
    assert set(told["reached"]) == {GOOD}
