"""The files of a URL list: open each with its reader, and read their rows one file after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePath

import pyarrow as pa

from producer.sources import columns, compression, formats, location
from producer.sources.columns import Selection
from producer.sources.location import display_name
from producer.sources.options import SourceOptions
from producer.sources.reader import BadRow, DamagedListError, Reader, Row
from tasks.errors import UsageError

#: The number of further files to check before the first row is read. Checking a file takes about a millisecond.
_CHECKED = 1000


class ListFiles:
    """The files of a URL list. Only one file is open at a time."""

    def __init__(self, source: str, options: SourceOptions, stack: ExitStack) -> None:
        """Open the first file, and check the other files.

        Args:
            source: the list.
            options: how to read it.
            stack: it closes the open file.

        Raises:
            UsageError: a file can't be opened, has another format, or lacks a column.
        """
        self._options = options
        with _translated_errors(source, None):
            self._files = location.expand(source)
        self._open = stack.enter_context(ExitStack())
        self._reader = self._open_reader(self._files[0], self._open)
        self._kind = type(self._reader)
        with _translated_errors(self._files[0], None):
            self.selection: Selection = columns.choose(self._reader, options, display_name(self._files[0]))
            #: The types of the columns to pass through.
            self.schema: pa.Schema = self.selection.schema(self._reader)
        for file in self._files[1 : 1 + _CHECKED]:
            with ExitStack() as short:
                self._open_next(file, short)

    @property
    def url_column(self) -> str | None:
        """The column with the URLs, or None if the list has no columns."""
        return self.selection.url if len(self._reader.names) > 1 else None

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files, with the values of the selected columns."""
        for number, file in enumerate(self._files):
            if number:
                self._open.close()
                self._reader = self._open_next(file, self._open)
            self._prefix = f"{PurePath(file).name}: " if len(self._files) > 1 else ""
            with _translated_errors(file, self._reader):
                yield from self._reader.rows(self.selection.columns, self.schema)

    def explain(self, row: BadRow) -> str:
        """Return why a row can't be read. The text names the file if the list has several files."""
        return f"{self._prefix}{row.why}"

    def where(self) -> str:
        """Return the place of the last yielded row, such as "line 17"."""
        return f"{self._prefix}{self._reader.where()}"

    def _open_next(self, file: str, stack: ExitStack) -> Reader:
        """Return the reader of a further file.

        Raises:
            UsageError: the file has another format or other columns than the first file.
        """
        reader = self._open_reader(file, stack)
        if type(reader) is not self._kind:
            raise UsageError(
                f"{display_name(file)} has another format than the first file of the list",
                f"it is {reader.description}",
                "Give only files of one format.",
            )
        columns.check_columns(reader, self.selection, display_name(file))
        return reader

    def _open_reader(self, file: str, stack: ExitStack) -> Reader:
        with _translated_errors(file, None):
            return formats.open_reader(file, self._options, stack)


@contextmanager
def _translated_errors(file: str, reader: Reader | None) -> Iterator[None]:
    """Convert the errors of reading a file to a `UsageError` that names the place."""
    name = display_name(file)
    try:
        yield
    except compression.ERRORS as error:
        place = "at its start" if reader is None else f"near {reader.where()}"
        what = "the compressed data is truncated" if isinstance(error, EOFError) else f"the data is damaged ({error})"
        raise UsageError(f"{name} can't be read {place}", what, "Restore a good copy of the list.") from error
    except DamagedListError as error:
        raise UsageError(f"{name} can't be read", str(error), "Restore a good copy of the list.") from error
    except OSError as error:
        raise UsageError(
            f"{name} can't be read",
            error.strerror or str(error),
            "Give the path of a file, a folder or a pattern, or - for standard input.",
        ) from error
