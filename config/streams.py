"""Keep the program running if a standard stream is closed, has no reader, or can't encode a character.

A report that can't be printed must not change a run's exit status. Only standard output on a full disk is an error,
because a truncated file would look like a complete one. Messages that don't fit on the disk are dropped.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

_STANDARD, _ERROR = 3, 2


class OutputError(OSError):
    """Standard output can't be written."""


class _Output(io.FileIO):
    """A file descriptor that drops further output after its reader has closed the pipe, or after an error."""

    #: Whether the output is dropped.
    is_dropped = False

    def write(self, data: Any, /) -> int:
        """Write the bytes; return the number of bytes written or dropped.

        Raises:
            OutputError: standard output can't be written, for example because the disk is full.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            self._drop()
        except OSError as error:
            if self.fileno() != _ERROR:
                # Python writes the rest of the buffer when it exits.
                self._drop()
                raise OutputError(error.errno, error.strerror) from error
        return len(data)

    def _drop(self) -> None:
        self.is_dropped = True
        with open(os.devnull, "wb") as devnull:  # noqa: PTH123  # not a Path
            os.dup2(devnull.fileno(), self.fileno())


def has_reader(stream: TextIO) -> bool:
    """Return whether the reader of a standard stream has not closed the pipe, as far as writing has shown it."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return not (isinstance(raw, _Output) and raw.is_dropped)


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
        sys.stderr = _output(sys.stderr, _ERROR)


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
