"""Shared fixtures of the end-to-end tests: a browser, and a local fleet for each module."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from producer.local_fleet.demo_process import DemoProcess
from tests.conftest import lacking, required
from tests.flower import RunningFleet, running_fleet

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium. If Chromium or playwright is missing, the tests are skipped at home and fail in CI."""
    program = required("chromium")
    if importlib.util.find_spec("playwright") is None:
        lacking("playwright is not installed: pip install -e '.[dev]'")
    from docs.browser import chromium

    with chromium(program) as started:
        yield started


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoProcess]:
    """Start a demo server."""
    with DemoProcess() as server:
        yield server


@pytest.fixture(scope="module")
def fleet(demo: DemoProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Start a fleet of two workers. Each worker has five slots and may connect to the demo server."""
    env = {"IMAGEFLEET_ALLOW_NETWORKS": demo.address}
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(folder, "--workers", "2", "--concurrency", "5", env=env) as started:
        yield started
