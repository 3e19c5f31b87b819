"""From a list's first bytes and first rows, recognize whether it is more than a plain list of URLs. No I/O.

To add a format, add a signature to `_SIGNATURES` or a row pattern to `_ROWS`, and a case to the tests of sources.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from producer.sources.options import InputFormat


@dataclass(frozen=True, slots=True)
class Format:
    """The apparent format of a list, and the input format for reading it, if there is one."""

    name: str
    input_format: InputFormat | None = None
    #: How to convert a list that can't be read; None if there is no special way.
    hint: str | None = None


_SIGNATURES = (
    (re.compile(rb"PK\x03\x04"), Format("a zip archive, as Excel files are")),
    (re.compile(rb"PAR1"), Format("a Parquet file", InputFormat.PARQUET)),
    (re.compile(rb"ARROW1"), Format("an Arrow file")),
    (re.compile(rb"ORC[\0-\x1f]"), Format("an ORC file")),
    (re.compile(rb"Obj\x01"), Format("an Avro file")),
    (re.compile(rb"SQLite format 3"), Format("an SQLite database")),
    (re.compile(rb"%PDF-"), Format("a PDF document")),
)
_MARKUP, _TABLE = Format("HTML or XML"), Format("a table", InputFormat.CSV)
_JSON_ARRAY, _JSON_LINES = Format("a JSON array", InputFormat.JSON), Format("JSON Lines", InputFormat.JSONL)
_JSON_OBJECT = Format(
    "a single JSON object",
    hint="Convert it to one object for each row. docs/lists.md (JSON) has a jq command for an object with an array of "
    "rows, and one for an object with an array for each column.",
)
_TABS = Format("a table with tabs between its columns", InputFormat.TSV)
_WORDS = Format("a table with spaces between its columns", InputFormat.WORDS)
_ARIA2 = Format("an input file of aria2", InputFormat.ARIA2)

#: Formats recognized by the first row alone.
_FIRST_ROW = (
    (re.compile(r"\[\s*(?:[\"{\[\]]|$)"), _JSON_ARRAY),
    # A row may be cut off after some thousand characters.
    (re.compile(r"\{\s*\"(?:.*\}$|.{2000})"), _JSON_LINES),
    (re.compile(r"\{\s*(?:[\"}]|$)"), _JSON_OBJECT),
    (re.compile(r"<(?:!doctype|html|\?xml|urlset|a|img|ul|ol|li|p|div)\b", re.IGNORECASE), _MARKUP),
    # A header row has several columns and no URL. One of its columns is named url, link or similar.
    (
        re.compile(
            r"(?!.*://)(?=.*[,;|\t])(?:.*[,;|\t])?\s*[\"']?(?:\w*[_ ])?(?:image)?(?:url|uri|link|href|src)s?[\"']?\s*"
            r"(?:[,;|\t].*)?",
            re.IGNORECASE,
        ),
        _TABLE,
    ),
)
#: The beginning of an object whose first field is an array of texts or objects.
_WITH_ARRAY = re.compile(r"\{\s*\"[^\"]*\"\s*:\s*\[\s*[\"{]")
#: A row of at least this many characters may be cut off.
_CUT_OFF = 2000
_EXTENSION = r"\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?|ico|svg)"
#: URLs may contain commas, semicolons and pipes. URLs written by people may also contain spaces. So a row counts as a
#: row of a table only if it is certain where a column ends. A column ends at a quotation mark, at a second URL, or
#: after an image's extension without a query.
_ROWS = (
    (re.compile(r"\s*(?:out|dir|checksum|header|referer|user-agent|gid|split|http-(?:user|passwd))=", re.I), _ARIA2),
    (re.compile(r"(?:.*\t)?[\"']?https?://[^\t]*\t|.*\t\s*[\"']?https?://", re.I), _TABS),
    (re.compile(r"(?![\"'<\s]*https?:).*[,;|]\s*[\"']?https?://", re.I), _TABLE),
    (re.compile(r"\"https?://[^\"]*\"\s*[,;|]\s*\S", re.I), _TABLE),
    (re.compile(r"https?://[^\"\s]*[,;|]\s*\"", re.I), _TABLE),
    (re.compile(rf"https?://[^?#\s]*?{_EXTENSION}[,;|](?![\w-]+=)\s*\S", re.I), _TABLE),
    (re.compile(r"(?![\"'<\s]*https?:).*\shttps?://", re.I), _WORDS),
    (re.compile(rf"https?://\S+\s+https?://|https?://[^?#\s]*?{_EXTENSION}\s+\S", re.I), _WORDS),
)


def from_bytes(head: bytes) -> Format | None:
    """Return the format of a file that begins with these bytes, or None if the format is unknown."""
    return next((found for signature, found in _SIGNATURES if signature.match(head)), None)


def from_rows(rows: Sequence[str]) -> Format | None:
    """Return the format of a text that begins with these rows, or None for a list of URLs.

    A list of URLs may contain bad rows.

    Args:
        rows: the first rows, stripped, without blank rows and comments.
    """
    if not rows:
        return None
    if len(rows) == 1 and _has_arrays(rows[0]):
        return _JSON_OBJECT
    for pattern, found in _FIRST_ROW:
        if pattern.fullmatch(rows[0]) if found is _TABLE else pattern.match(rows[0]):
            return found
    shapes = Counter(shape for row in rows if (shape := _shape(row)) is not None)
    return shapes.most_common(1)[0][0] if 2 * shapes.total() >= len(rows) else None


def _has_arrays(row: str) -> bool:
    """Return whether a row, which may be cut off, is an object whose fields are all arrays.

    Such an object is a whole table and not a row of it. A cut off row counts if its first field fills it.
    """
    if _WITH_ARRAY.match(row) is None:
        return False
    try:
        return all(isinstance(value, list) for value in json.loads(row).values())
    except ValueError:
        return len(row) > _CUT_OFF and "]" not in row


def _shape(row: str) -> Format | None:
    return next((found for pattern, found in _ROWS if pattern.match(row)), None)
