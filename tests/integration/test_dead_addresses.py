"""A run saves images although the first addresses of the hosts are dead, or DNS answers for one family only."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.dead_addresses import NAMES, PARTIAL
from tests.integration.processes import ROOT

#: This limit in seconds is far above three head starts, and far below the timeout of one address.
_SECONDS = 15.0


@pytest.fixture(scope="module")
def fetched(namespace: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the rows of a run that one real worker executes inside the namespace."""
    folder = str(tmp_path_factory.mktemp("dead-addresses"))
    command = [*namespace, sys.executable, "-m", "tests.integration.dead_addresses"]
    ended = subprocess.run([*command, folder], capture_output=True, text=True, timeout=250, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["code"] == 0, facts["err"]
    return facts["rows"]


@pytest.mark.parametrize("name", NAMES)
def test_dead_addresses_cost_no_image(fetched: Any, name: str) -> None:
    """If one to three dead addresses of either family precede the good address, this costs no image and no timeout."""
    rows = [(error, seconds < _SECONDS) for url, error, seconds in fetched if name in url]
    assert rows == [(None, True)] * 2


@pytest.mark.parametrize("name", PARTIAL)
def test_name_server_for_one_family_costs_no_image(fetched: Any, name: str) -> None:
    """The addresses of one family are used if the query for the other family fails or gets no answer."""
    assert [error for url, error, _ in fetched if name in url] == [None, None]
