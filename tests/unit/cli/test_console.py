"""Reports on the console and in files."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from producer.cli import console
from producer.cli.progress_display import Display
from tests.unit.cli.progresses import FULL


def test_redirected_tables_have_no_trailing_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables are padded for terminals, but not in output that goes to a file."""
    table = Table("name", "found", box=None)
    table.add_row("a", "much more than a name")
    console.show(table)
    assert capsys.readouterr().out.splitlines() == [" name  found", " a     much more than a name"]


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_variables_make_no_terminal_of_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CI systems set variables that ask for colours. A file still gets plain lines, without terminal commands."""
    monkeypatch.setenv(name, "1")
    file = io.StringIO()
    with Display(console.create_console(file)) as display:
        display.show(FULL)
        display.announce("Finishing 3 images.")
    console.show(Text("The result", "bold red"), file)
    assert file.getvalue() == "Finishing 3 images.\nThe result\n"
