"""The demo's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.cli import compare_commands


def test_demo_gets_a_new_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo's folder gets the next free number."""
    monkeypatch.chdir(tmp_path)
    for expected in ("demo", "demo-2", "demo-3"):
        folder = compare_commands._new_folder("demo")
        assert str(folder) == expected
        folder.mkdir()
    assert len(list(tmp_path.iterdir())) == 3
