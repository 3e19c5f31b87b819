"""Read JSON Lines: one JSON object, or one URL in quotation marks, on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from typing import Any

import orjson

from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.json_reader import Item, JsonReader
from producer.sources.reader import BadRow

#: The longest line that is read, in bytes or characters.
_LINE_LIMIT = 16 * 1024 * 1024


def read_json_lines(text: BufferedReader | TextIOWrapper) -> JsonReader:
    """Return the reader of a file in JSON Lines. Reading UTF-8 as bytes is faster."""
    return JsonReader(_items(text), "line", "a file in JSON Lines")


def _items(text: BufferedReader | TextIOWrapper) -> Iterator[Item]:
    """Yield the value of each line with the line number. Blank lines are skipped."""
    number = size = 0
    while line := text.readline(_LINE_LIMIT):
        number += 1
        size += len(line)
        if len(line) >= _LINE_LIMIT:
            while len(line) >= _LINE_LIMIT:
                line = text.readline(_LINE_LIMIT)
            yield number, BadRow(f"line {number:,} is longer than {_LINE_LIMIT:,} characters"), size
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                continue
            value = _parse_leniently(line, number)
        yield number, value, size


def _parse_leniently(line: bytes | str, number: int) -> Any:
    """Return the value of a line that orjson refuses, such as a line with NaN or Infinity from Python's own writer."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    try:
        value = json.loads(text.removeprefix(BYTE_ORDER_MARK))
        # Half of a surrogate pair can't be stored.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return BadRow(f"line {number:,} is not JSON")
    return value
