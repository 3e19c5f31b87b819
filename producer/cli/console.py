"""Print notes and rendered reports."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

#: The maximum width of printed text without a terminal, in columns.
_PLAIN_WIDTH = 160


def create_console(stream: Any) -> Console:
    """Return a console for a stream."""
    return Console(file=stream, width=None if stream.isatty() else _PLAIN_WIDTH)


def show(shown: RenderableType, stream: Any = None) -> None:
    """Print a rendered report, by default to standard output."""
    stream = stream or sys.stdout
    console = create_console(stream)
    if stream.isatty():
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    # Leave out the padding of tables, because padding is of no use in a file.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), file=stream)


def print_note(text: str, quiet: bool) -> None:
    """Print a text to standard error, unless ``quiet``."""
    if not quiet:
        click.echo(text, err=True)
