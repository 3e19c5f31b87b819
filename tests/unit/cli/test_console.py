"""Reports on the console and in files."""

from __future__ import annotations

import pytest
from rich.table import Table

from producer.cli import console


def test_redirected_tables_have_no_trailing_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables are padded for terminals, but not in output that goes to a file."""
    table = Table("name", "found", box=None)
    table.add_row("a", "much more than a name")
    console.show(table)
    assert capsys.readouterr().out.splitlines() == [" name  found", " a     much more than a name"]
