"""What the tests of faults share: their form, the pictures, and the tables of what they have shown.

``FAULTS=long`` chooses the long form; any other value, or none, the short one. ``FAULTS_KEEP`` keeps what is found, for
the page that is produced from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.harness import Arena, Site, site


@pytest.fixture(scope="session")
def long() -> bool:
    """Tell whether this is the long form."""
    return os.environ.get("FAULTS") == "long"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the pictures of all faults by nginx."""
    with site(tmp_path_factory.mktemp("pictures")) as served:
        yield served


@pytest.fixture
def arena(pictures: Site, tmp_path: Path) -> Iterator[Arena]:
    """Give a place for one fault: a Redis, a fleet that is empty yet, and producers; its images go at the end."""
    with Arena(tmp_path, pictures) as place:
        yield place
    for out in tmp_path.glob("out-*"):
        # What a killed worker's last system call was still at may come and go.
        shutil.rmtree(out, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables, and keep them."""
    found = [one for one in table.TABLES if one.rows]
    for one in found:
        terminalreporter.section(f"faults: {one.name}")
        for line in table.plain(one):
            terminalreporter.write_line(line)
    if found and os.environ.get("FAULTS_KEEP"):
        table.keep("long" if os.environ.get("FAULTS") == "long" else "short")
