"""The demo's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli import compare_commands
from producer.cli.main import cli


def test_demo_gets_a_new_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo's folder gets the next free number."""
    monkeypatch.chdir(tmp_path)
    for expected in ("demo", "demo-2", "demo-3"):
        folder = compare_commands._new_folder("demo")
        assert str(folder) == expected
        folder.mkdir()
    assert len(list(tmp_path.iterdir())) == 3


def test_names_of_a_column_are_refused(tmp_path: Path) -> None:
    """A comparison saves the same images three times, under the default names."""
    (tmp_path / "list.csv").write_text("url,name\nhttp://127.0.0.1/,a\n")
    arguments = ["compare", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--path-col", "name"]
    ended = CliRunner().invoke(cli, arguments)
    assert (ended.exit_code, "default names" in ended.output) == (2, True)
    assert not (tmp_path / "out").exists()
