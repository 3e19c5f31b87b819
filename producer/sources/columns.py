"""Choose the columns of a URL list that a run needs: the URLs, the captions, and further columns to pass through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from producer.sources.options import SourceOptions
from producer.sources.reader import Reader
from tasks.errors import UsageError

CAPTION = "caption"
#: Usual names of a column with URLs. Case, spaces and punctuation are ignored.
_URL_NAMES = frozenset(
    f"{kind}{what}{number}"
    for kind in ("", "image", "img", "photo", "picture")
    for what in ("url", "uri", "link", "src", "href")
    for number in ("", "s")
)
_NOT_LETTER = re.compile(r"[^a-z]")
#: The maximum number of columns to list in a message.
_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen columns of a URL list, by their names in the list."""

    url: str
    #: The columns to pass through, by their names in manifests. They include the caption.
    passed: dict[str, str]
    #: The column with the hashes, or None.
    hash: str | None = None
    #: The column with the names of the files, or None.
    path: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns to read: the URL, the columns to pass through, the hash, and the file name."""
        return [self.url, *self.passed.values(), *(name for name in (self.hash, self.path) if name is not None)]

    def schema(self, reader: Reader) -> pa.Schema:
        """Return the types of the columns to pass through, and their names in manifests."""
        types = reader.schema(list(self.passed.values()))
        return pa.schema([(name, types.field(place).type) for place, name in enumerate(self.passed)])


def choose(reader: Reader, options: SourceOptions, list_name: str) -> Selection:
    """Return the columns that the options ask for.

    Raises:
        UsageError: the list lacks a column, or it is unclear which column has the URLs.
    """
    url = options.url_col or reader.url_column or _find_url_column(reader, list_name)
    passed = {} if options.caption_col is None else {CAPTION: options.caption_col}
    for name in options.columns:
        # The URL and the caption are always passed through.
        if name not in (url, options.caption_col):
            passed[f"source_{name}" if name in passed else name] = name
    given = [("--url-col", url), *(("--columns", name) for name in options.columns)]
    optional = (
        ("--caption-col", options.caption_col),
        ("--hash-col", options.hash_col),
        ("--path-col", options.path_col),
    )
    given += [(option, name) for option, name in optional if name is not None]
    for option, name in given:
        if name not in reader.names:
            raise UsageError(
                f"{list_name} has no column {name}",
                f"it is {reader.description}, {_columns_text(reader.names)}",
                f"Set {option} to the name of an existing column.",
            )
    _check_values(reader, url, list_name)
    return Selection(url, passed, options.hash_col, options.path_col)


def _check_values(reader: Reader, url: str, list_name: str) -> None:
    """Check that the column with the URLs has single values.

    Raises:
        UsageError: its values are objects or lists.
    """
    kind = reader.schema([url]).field(0).type
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        named = _url_names(names) or names
        raise UsageError(
            f"The column {url} of {list_name[0].lower()}{list_name[1:]} holds no URLs",
            f"its values are objects with the fields {', '.join(names[:_MAX_LISTED])}",
            f"Name a field of the column, as in `--url-col {url}.{named[0]}`.",
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        raise UsageError(
            f"The column {url} of {list_name[0].lower()}{list_name[1:]} holds no URLs",
            "its values are lists",
            "Write a list with one URL in each row. docs/lists.md shows how to convert such files.",
        )


def _url_names(names: Sequence[str]) -> list[str]:
    """Return the names that are usual for a column with URLs."""
    return [name for name in names if _NOT_LETTER.sub("", name.lower()) in _URL_NAMES]


def check_columns(reader: Reader, selection: Selection, list_name: str) -> None:
    """Check that a further file of the list has the columns that were chosen in the first file.

    Raises:
        UsageError: the file lacks a column.
    """
    for name in selection.columns:
        if name not in reader.names:
            raise UsageError(
                f"{list_name} has no column {name}",
                "the first file of the list has this column; "
                f"this file is {reader.description}, {_columns_text(reader.names)}",
                "Give only files with the same columns.",
            )


def _find_url_column(reader: Reader, list_name: str) -> str:
    """Return the only column with a usual name for URLs.

    Raises:
        UsageError: there is no such column, or there are several.
    """
    found = _url_names(reader.names)
    if len(found) == 1:
        return found[0]
    if reader.url_in_header is not None:
        why = "its first row has a URL, so it has no header"
        hint = f"Add `--no-header --url-col {reader.url_in_header}`."
        if reader.url_in_header == "1":
            hint += " If each line is only a URL, add `--input-format text` instead."
    elif found:
        why, hint = (
            f"the URLs may be in {' or '.join(found[:5])}",
            f"Choose one of them, as in `--url-col {found[0]}`.",
        )
    else:
        why, hint = _columns_text(reader.names), "Name the column that has the URLs: `--url-col COLUMN`."
    raise UsageError(
        f"{list_name} does not say which of its columns has the URLs", f"it is {reader.description}, and {why}", hint
    )


def _columns_text(names: Sequence[str]) -> str:
    if not names:
        return "without columns"
    more = f" and {len(names) - _MAX_LISTED:,} more" if len(names) > _MAX_LISTED else ""
    return f"with the columns {', '.join(name[:50] for name in names[:_MAX_LISTED])}{more}"
