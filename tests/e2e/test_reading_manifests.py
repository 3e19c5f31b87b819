"""The documented code lines for manifests read only the manifests, and no image or plan."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from producer.local_fleet.supervisor_client import ROOT
from producer.output.run_file import PlanState, State
from tasks.storage.local_store import LocalStore
from tests.conftest import lacking
from tests.runs import make_run
from tests.unit.conftest import image

_PAGE = (ROOT / "docs" / "outcomes.md").read_text(encoding="utf-8")
#: The expression of each library, as the documentation page shows it.
_LINES = dict(re.findall(r"^\| \w+ \| `(?=(pandas|polars|duckdb|pyarrow)\.)(.*?)`", _PAGE, re.MULTILINE))
_LIBRARIES = ("pandas", "polars", "duckdb", "pyarrow")
_ROWS = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that contains the output folder ``images`` of a complete run.

    The run has three shards and some images.
    """
    out = tmp_path / "images"
    out.mkdir()
    make_run(tmp_path / "list.txt", LocalStore(out), _ROWS, 3, State.COMPLETE, PlanState.COMPLETE)
    for shard in ("00000", "00001", "00002"):
        (out / shard).mkdir(exist_ok=True)
        (out / shard / f"{shard}0000.jpg").write_bytes(image("JPEG"))
    assert len(list(out.glob(".plan/*.parquet"))) == 3
    return tmp_path


@pytest.mark.parametrize("library", _LIBRARIES)
def test_line_reads_only_the_manifests(folder: Path, library: str) -> None:
    """Each line returns every request once, in the order of the list."""
    if find_spec(library) is None:
        lacking(f"{library} is not installed in this environment")
    # The expression runs in a separate process, because some libraries start threads that would affect other tests.
    imports = "import glob, pyarrow.parquet" if library == "pyarrow" else f"import glob, {library}"
    script = f"{imports}\nfor url in ({_LINES[library]})['url']: print(url)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [f"http://a.example/{index}" for index in range(_ROWS)]
