"""Read a JSON array of objects or URLs, one element after another."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.json_reader import JsonReader
from producer.sources.reader import DamagedListError


def read_json_array(stream: BufferedReader, encoding: str) -> JsonReader:
    """Return the reader of a file with a JSON array.

    Raises:
        DamagedListError: the file is not JSON.
    """
    mark = BYTE_ORDER_MARK.encode()
    if stream.peek(len(mark)).startswith(mark):
        stream.read(len(mark))
    text = stream if encoding == "utf-8" else _Utf8(stream, encoding)
    return JsonReader(_items(text), "element", "a file with a JSON array")


class _Utf8:
    """A stream of a text as UTF-8. The text has another encoding, and the parser needs UTF-8."""

    def __init__(self, stream: BufferedReader, encoding: str) -> None:
        self._text = codecs.getreader(encoding)(stream, "replace")

    def read(self, size: int = -1) -> bytes:
        return self._text.read(size).encode()


def _items(text: Any) -> Iterator[tuple[int, Any]]:
    """Yield the elements with their numbers.

    Raises:
        DamagedListError: at some place, the text stops being JSON.
    """
    import ijson

    number = 0
    try:
        for number, item in enumerate(ijson.items(text, "item", use_float=True), 1):
            yield number, item
    except ijson.JSONError as error:
        message = error.args[0] if error.args else ""
        reason = (message.decode("utf-8", "replace") if isinstance(message, bytes) else message).partition("\n")[0]
        raise DamagedListError(f"it is not valid JSON after element {number:,} ({reason})") from error
