"""`producer gallery` as a user runs it: it prints its address, serves the run, and ends with Ctrl-C."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tasks.storage.local_store import LocalStore
from tests.gallery_runs import Picture, make_gallery_run
from tests.integration import processes
from tests.unit.conftest import image


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal(tmp_path: Path, ending: signal.Signals) -> None:
    """The printed address shows the run. A signal ends the command with status 0, even while a client is connected."""
    out = tmp_path / "out"
    make_gallery_run(LocalStore(out), [Picture("http://a.example/1.png", image())])
    before = processes.files_below(out)
    with processes.started("gallery", processes.command(["gallery", out]), tmp_path) as command:
        found = re.fullmatch(r"The gallery of \S+/out is at (http://127\.0\.0\.1:\d+/[\w-]{32}/)", command.first_line())
        assert found is not None, command.out
        with urllib.request.urlopen(f"{found[1]}file/0/0", timeout=10) as answer:
            assert answer.read() == image()
            command.process.send_signal(ending)
            ended = command.wait()
    assert (ended.code, ended.err) == (0, "The gallery has stopped.\n")
    assert processes.files_below(out) == before


def test_folder_without_a_run(tmp_path: Path) -> None:
    """The error says what the folder lacks and what to do."""
    what, _, todo = processes.error_parts(processes.producer("gallery", tmp_path))
    assert what.endswith("holds no run")
    assert "--out" in todo
