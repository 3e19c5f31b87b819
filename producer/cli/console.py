"""Print notes and rendered reports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from producer.cli import json_log

if TYPE_CHECKING:
    from rich.console import RenderableType

#: The maximum width of printed text without a terminal, in columns.
_PLAIN_WIDTH = 160


def create_console(stream: Any) -> Console:
    """Return a console for a stream. Variables such as FORCE_COLOR do not make a terminal of a file or a pipe."""
    if stream.isatty():
        return Console(file=stream)
    return Console(file=stream, width=_PLAIN_WIDTH, force_terminal=False, force_interactive=False)


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
    """Print a text to standard error, unless ``quiet``. In a log in JSON, the text is a line of its own."""
    if quiet:
        return
    if json_log.is_on():
        json_log.write("info", text)
    else:
        click.echo(text, err=True)


def print_warning(text: str) -> None:
    """Print a warning, a text without a period, to standard error."""
    if json_log.is_on():
        json_log.write("warning", text)
    else:
        click.echo(f"Warning: {text}.", err=True)


def print_line(console: Console, text: str) -> None:
    """Print a line without wrapping it, or write it to the log if the log is in JSON."""
    if json_log.is_on():
        json_log.write("info", text)
    else:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def show_waiting(console: Console, text: str, quiet: bool = False) -> Iterator[None]:
    """Show a text while the block runs.

    On a terminal, the text disappears at the end. Elsewhere, the text is a printed line.
    """
    if quiet:
        yield
    elif console.is_interactive and not json_log.is_on():
        # Some encodings lack the characters of the usual spinner.
        with console.status(Text(text), spinner="dots" if console.encoding.startswith("utf") else "line"):
            yield
    else:
        print_line(console, text)
        yield
