"""Shared fixtures of the fault tests: the form of the tests (long or short), the images, and the tables of results.

``FAULTS=long`` selects the long form of the tests. Any other value, or no value, selects the short form.
``FAULTS_KEEP`` saves the results, from which docs/faults.md is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.harness import Arena, Site, serve_images


@pytest.fixture(scope="session")
def long() -> bool:
    """Return whether the long form of the fault tests is selected."""
    return os.environ.get("FAULTS") == "long"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the images of all fault tests with nginx."""
    with serve_images(tmp_path_factory.mktemp("pictures")) as served:
        yield served


@pytest.fixture
def arena(site: Site, tmp_path: Path) -> Iterator[Arena]:
    """Provide a Redis and an empty fleet for one test; delete the test's images at the end."""
    with Arena(tmp_path, site) as created:
        yield created
    for out in tmp_path.glob("out-*"):
        # A killed worker's last system call may still create or delete a file.
        shutil.rmtree(out, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables of results, and save them on request."""
    filled = [one for one in table.TABLES if one.rows]
    for one in filled:
        terminalreporter.section(f"faults: {one.name}")
        for line in table.format_lines(one):
            terminalreporter.write_line(line)
    if filled and os.environ.get("FAULTS_KEEP"):
        table.save("long" if os.environ.get("FAULTS") == "long" else "short")
