"""Keep the program running if a standard stream is closed, has no reader, or can't encode a character.

A report that can't be printed must not change a run's exit status.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

_STANDARD = 3


class _Output(io.FileIO):
    """A file descriptor that drops further output after its reader has closed the pipe."""

    def write(self, data: Any, /) -> int:
        """Write the bytes; return the number of bytes written or dropped."""
        try:
            return super().write(data)
        except BrokenPipeError:
            with open(os.devnull, "wb") as devnull:  # noqa: PTH123  # not a Path
                os.dup2(devnull.fileno(), self.fileno())
            return len(data)


def escape_unencodable() -> None:
    """Make the standard streams print an escape sequence for each character that their encoding lacks."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_up() -> None:
    """Replace the standard streams of this process, unless other code has replaced them already."""
    _fill_closed()
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115  # stays open until the process ends
    if sys.stdout is sys.__stdout__:
        sys.stdout = _output(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _output(sys.stderr, 2)


def _fill_closed() -> None:
    """Open os.devnull for each closed standard stream, so that no other file gets the stream's descriptor."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < _STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _output(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=bool(getattr(stream, "line_buffering", False)),
        write_through=bool(getattr(stream, "write_through", False)),
    )
