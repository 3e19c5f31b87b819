"""Open a file of a URL list: decompress it, find out its format, and return the format's reader."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from contextlib import ExitStack
from io import BufferedReader
from itertools import islice
from pathlib import PurePath

from producer.sources import compression, list_format
from producer.sources.delimited import DelimitedReader
from producer.sources.encoding import BYTE_ORDER_MARK, find_encoding, is_binary
from producer.sources.list_format import Format
from producer.sources.location import HEAD_BYTES, STANDARD_INPUT, display_name, open_bytes
from producer.sources.options import InputFormat, SourceOptions
from producer.sources.reader import Reader
from producer.sources.text import TextReader
from tasks.errors import UsageError

#: The formats by the endings of files' names.
_EXTENSIONS = {
    ".txt": InputFormat.TEXT,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.TSV,
    ".tab": InputFormat.TSV,
}
#: The formats that may have a header.
_TABLES = (InputFormat.CSV, InputFormat.TSV)
#: Rows to inspect for the format, and characters to inspect of each row.
_ROWS, _ROW_HEAD = 1000, 2048


def open_reader(file: str, options: SourceOptions, stack: ExitStack) -> Reader:
    """Return the reader of a file.

    Args:
        file: its path, or ``-`` for standard input.
        options: the options of the list.
        stack: it closes the file.

    Raises:
        UsageError: the file has another format than its name or the options say, or an unknown one.
        OSError, EOFError: it can't be read.
    """
    stored = stack.enter_context(open_bytes(file))
    stream = stack.enter_context(compression.decompress(stored))
    # For a pipe, this is only the data that has arrived.
    head = stream.peek(HEAD_BYTES)
    encoding = options.encoding or find_encoding(head)
    claimed = options.input_format or _format_of_name(file)
    rows = _check_text(head, encoding, file)
    chosen = _choose_format(claimed, rows, file)
    if not options.header and chosen not in _TABLES:
        raise UsageError(
            f"--no-header has no effect on {display_name(file)[0].lower()}{display_name(file)[1:]}",
            f"it is read as {chosen}, and only tables have a header ({', '.join(_TABLES)})",
            "Remove --no-header, or give the list's format with --input-format.",
        )
    return _create_reader(chosen, stream, encoding, options)


def _create_reader(input_format: InputFormat, stream: BufferedReader, encoding: str, options: SourceOptions) -> Reader:
    match input_format:
        case InputFormat.CSV:
            return DelimitedReader(stream, encoding, None, options.header)
        case InputFormat.TSV:
            return DelimitedReader(stream, encoding, "\t", options.header)
        case InputFormat.TEXT:
            return TextReader(stream, encoding)


def _format_of_name(file: str) -> InputFormat | None:
    path = PurePath(file)
    if path.suffix.lower() in compression.EXTENSIONS:
        path = path.with_suffix("")
    return _EXTENSIONS.get(path.suffix.lower())


def _check_text(head: bytes, encoding: str, file: str) -> list[str]:
    """Return the first rows of a text, stripped, without blank ones and comments.

    Raises:
        UsageError: the file is not a text.
    """
    found = list_format.from_bytes(head)
    if found is not None:
        raise _other_format_error(found, file)
    if codecs.lookup(encoding).name == "utf-8" and is_binary(head):
        raise UsageError(
            f"{display_name(file)} is not a text file",
            "it contains zero bytes, like binary files and UTF-16 text without a byte order mark",
            "Give a text file in UTF-8, or name its encoding, for example `--encoding utf-16-le`.",
        )
    lines = head.decode(encoding, "replace").replace("\r", "\n").replace(BYTE_ORDER_MARK, "\n").split("\n")
    rows = (row[:_ROW_HEAD] for line in lines if (row := line.strip()) and not row.startswith("#"))
    return list(islice(rows, _ROWS))


def _choose_format(claimed: InputFormat | None, rows: Sequence[str], file: str) -> InputFormat:
    """Return the format to read a text in.

    Args:
        claimed: the format that the options or the file's name say.
        rows: the text's first rows.
        file: the file, for messages.

    Raises:
        UsageError: the rows don't have that format.
    """
    found = list_format.from_rows(rows)
    if found is None:
        return claimed or InputFormat.TEXT
    # A row of a table may be taken for a row of another kind of table. Only the options and the name can tell.
    is_table = found.input_format is not None
    if claimed in (None, InputFormat.TEXT) or not is_table:
        raise _other_format_error(found, file)
    return claimed


def _other_format_error(found: Format, file: str) -> UsageError:
    if found.input_format is None:
        hint = "Write its URLs to a text file, one on each line. docs/lists.md has a command for each format."
        return UsageError(f"{display_name(file)} looks like {found.name}", "this format can't be read", hint)
    where = "standard input" if file == STANDARD_INPUT else "the name of a text file"
    return UsageError(
        f"{display_name(file)} looks like {found.name}",
        f"{where} does not say so" if file == STANDARD_INPUT else "its name or --input-format says otherwise",
        f"Add `--input-format {found.input_format}`.",
    )
