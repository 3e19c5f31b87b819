"""The notebook of the docs runs from its first cell to its last cell, and shows the results that its text describes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from docs import notebook
from tests.conftest import lacking


def test_notebook_runs(tmp_path: Path) -> None:
    """The notebook downloads the list, shows a contact sheet and the failures, and leaves no process behind."""
    for package in ("nbclient", "ipykernel", "pandas"):
        if find_spec(package) is None:
            lacking(f"{package} is not installed in this environment")
    book = notebook.execute(tmp_path)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    shown = " ".join(str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    assert "success=22" in shown or "'success': 22" in shown
    assert "A picture that does not exist" in shown
    assert "invalid_url" in shown
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert len(list((tmp_path / "images").glob("00000/*.jpg"))) == 22
