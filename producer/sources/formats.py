"""Open a file of a URL list: decompress it, find out its format, and return the format's reader."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from contextlib import ExitStack
from io import BufferedReader, TextIOWrapper
from itertools import islice
from pathlib import PurePath
from tempfile import TemporaryFile

from producer.sources import compression, list_format
from producer.sources.aria2 import Aria2Reader
from producer.sources.delimited import DelimitedReader, is_one_url
from producer.sources.encoding import BYTE_ORDER_MARK, find_encoding, is_binary
from producer.sources.json_array import read_json_array
from producer.sources.json_lines import read_json_lines
from producer.sources.list_format import Format
from producer.sources.location import HEAD_BYTES, STANDARD_INPUT, display_name, open_bytes
from producer.sources.options import InputFormat, SourceOptions
from producer.sources.parquet import ParquetReader, spooled
from producer.sources.reader import Reader
from producer.sources.remote import file_name
from producer.sources.text import TextReader
from producer.sources.words import WordsReader
from tasks.errors import UsageError

#: The formats, by the ending of a file's name.
_EXTENSIONS = {
    ".txt": InputFormat.TEXT,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.TSV,
    ".tab": InputFormat.TSV,
    ".json": InputFormat.JSON,
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".parquet": InputFormat.PARQUET,
    ".pq": InputFormat.PARQUET,
}
#: The formats that may have a header.
_TABLES = (InputFormat.CSV, InputFormat.TSV)
#: Formats whose rows may look like rows of one of the other formats.
_ROWS_OF_COLUMNS = (*_TABLES, InputFormat.WORDS, InputFormat.ARIA2)
_JSON = (InputFormat.JSON, InputFormat.JSONL)
#: The number of rows to inspect for the format, and the number of characters to inspect in each row.
_ROWS, _ROW_HEAD = 1000, 2048


def open_reader(file: str, options: SourceOptions, stack: ExitStack) -> Reader:
    """Return the reader of a file.

    Args:
        file: its path, or ``-`` for standard input.
        options: the options of the list.
        stack: it closes the file.

    Raises:
        UsageError: the file has an unknown format, or another format than its name or the options say.
        OSError, EOFError: the file can't be read.
    """
    stored = stack.enter_context(open_bytes(file))
    stream = stack.enter_context(compression.decompress(stored))
    # From a pipe, this is only the data that has arrived so far.
    head = stream.peek(HEAD_BYTES)
    signature = list_format.from_bytes(head)
    claimed = options.input_format or _format_of_name(file)
    if signature is not None:
        chosen = _check_binary(signature, claimed, file)
        _check_options(chosen, options, file)
        is_seekable = stream is stored and stored.seekable()
        return ParquetReader(stream if is_seekable else spooled(stream, stack.enter_context(TemporaryFile())))
    encoding = options.encoding or find_encoding(head)
    rows = _first_rows(head, encoding, file)
    chosen = _choose_format(options.input_format, claimed, rows, file)
    if options.input_format is None and options.header and chosen in _TABLES and _has_only_urls(rows):
        # Some lists of URLs are named .csv, although they have no header.
        chosen = InputFormat.TEXT
    _check_options(chosen, options, file)
    return _create_reader(chosen, stream, encoding, options, stack)


def _create_reader(
    chosen: InputFormat, stream: BufferedReader, encoding: str, options: SourceOptions, stack: ExitStack
) -> Reader:
    if chosen is InputFormat.JSON:
        return read_json_array(stream, encoding)
    if chosen is InputFormat.JSONL and encoding == "utf-8":
        return read_json_lines(stream)
    newline = "" if chosen in _TABLES else None
    text = stack.enter_context(TextIOWrapper(stream, encoding, "replace", newline))
    match chosen:
        case InputFormat.CSV:
            return DelimitedReader(text, None, options.header)
        case InputFormat.TSV:
            return DelimitedReader(text, "\t", options.header)
        case InputFormat.WORDS:
            return WordsReader(text)
        case InputFormat.ARIA2:
            return Aria2Reader(text)
        case InputFormat.JSONL:
            return read_json_lines(text)
        case _:
            return TextReader(text)


def _check_options(chosen: InputFormat, options: SourceOptions, file: str) -> None:
    """Check that the options have an effect on a list of the chosen format.

    Raises:
        UsageError: an option has no effect.
    """
    useless = None
    if not options.header and chosen not in _TABLES:
        useless = "--no-header"
    elif options.encoding is not None and chosen is InputFormat.PARQUET:
        useless = "--encoding"
    if useless is not None:
        raise UsageError(
            f"{useless} has no effect on this list",
            f"{display_name(file)[0].lower()}{display_name(file)[1:]} is read as {chosen}",
            f"Remove {useless}, or give the list's format with --input-format.",
        )


def _check_binary(signature: Format, claimed: InputFormat | None, file: str) -> InputFormat:
    """Return the format of a file that begins with a known signature.

    Raises:
        UsageError: the format can't be read, or differs from the claimed format.
    """
    if signature.input_format is not None and claimed in (None, signature.input_format):
        return signature.input_format
    raise _other_format_error(signature, claimed, file)


def _format_of_name(file: str) -> InputFormat | None:
    path = PurePath(file_name(file))
    if path.suffix.lower() in compression.EXTENSIONS:
        path = path.with_suffix("")
    return _EXTENSIONS.get(path.suffix.lower())


def _first_rows(head: bytes, encoding: str, file: str) -> list[str]:
    """Return the first rows of a text, stripped, without blank rows and comments.

    Raises:
        UsageError: the file is not a text.
    """
    if codecs.lookup(encoding).name == "utf-8" and is_binary(head):
        raise UsageError(
            f"{display_name(file)} is not a text file",
            "it contains NUL bytes, as binary files and UTF-16 text without a byte order mark do",
            "Give a text file in UTF-8, or name its encoding, for example `--encoding utf-16-le`.",
        )
    lines = head.decode(encoding, "replace").replace("\r", "\n").replace(BYTE_ORDER_MARK, "\n").split("\n")
    rows = (row[:_ROW_HEAD] for line in lines if (row := line.strip()) and not row.startswith("#"))
    return list(islice(rows, _ROWS))


def _has_only_urls(rows: Sequence[str]) -> bool:
    """Return whether each of a text's first rows is a URL and nothing else."""
    # The last row may be cut off anywhere.
    whole = rows[:-1] or rows
    return bool(whole) and all(map(is_one_url, whole)) and list_format.from_rows(rows) is None


def _choose_format(
    given: InputFormat | None, claimed: InputFormat | None, rows: Sequence[str], file: str
) -> InputFormat:
    """Return the format in which to read a text.

    Args:
        given: the format that the options say.
        claimed: the format that the options or the file's name say.
        rows: the text's first rows.
        file: the file, for messages.

    Raises:
        UsageError: the rows don't have that format.
    """
    found = list_format.from_rows(rows)
    seen = None if found is None else found.input_format
    if found is not None and seen is None:
        raise _other_format_error(found, claimed, file)
    if claimed in (InputFormat.PARQUET, InputFormat.JSON) and seen not in _JSON:
        raise UsageError(
            f"{display_name(file)} does not look like {claimed}",
            f"it looks like {'a text' if found is None else found.name}",
            f"Give its format with --input-format{f', for example `--input-format {seen}`' if seen else ''}.",
        )
    if found is None:
        return claimed or InputFormat.TEXT
    if seen in _JSON and (claimed is None or (given is None and claimed in _JSON)):
        # The names of the two formats are often mixed up, but the content is certain.
        return seen
    # A row of a table may look like a row of another kind of table. Only the options and the file's name can tell which
    # format the file has.
    if claimed is None or claimed is InputFormat.TEXT or seen not in (claimed, *_ROWS_OF_COLUMNS):
        raise _other_format_error(found, claimed, file)
    return claimed


def _other_format_error(found: Format, claimed: InputFormat | None, file: str) -> UsageError:
    if found.input_format is None:
        hint = found.hint or "Write its URLs to a text file, one on each line."
        return UsageError(f"{display_name(file)} looks like {found.name}", "this format can't be read", hint)
    if claimed is not None:
        why = f"it is read as {claimed}, because its name or --input-format says so"
    elif file == STANDARD_INPUT:
        why = "standard input has no name that says so"
    else:
        why = "its name has no known ending, so the format of a table must be given"
    return UsageError(
        f"{display_name(file)} looks like {found.name}", why, f"Add `--input-format {found.input_format}`."
    )
