"""Read a JSON array of objects or URLs, one element after another."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from io import BufferedReader
from typing import Any

from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.json_reader import Item, JsonReader
from producer.sources.reader import DamagedListError

#: Python does not convert more digits to an integer. ijson's parser in C crashes if Python refuses an integer.
_MAX_DIGITS = sys.get_int_max_str_digits() or sys.int_info.default_max_str_digits
_LONG_INTEGER = re.compile(rb"[\s\[:,-][0-9]{%d}" % (_MAX_DIGITS + 1))
#: The search through all bytes is slow. So every 64th byte is searched first, for as many digits in a row as a long
#: integer has there.
_STRIDE = 64
_LONG_DIGITS = re.compile(rb"[0-9]{%d}" % (_MAX_DIGITS // _STRIDE))
#: The types of values that contain no Decimal.
_PLAIN_TYPES = frozenset({str, int, bool, type(None), float})


def read_json_array(stream: BufferedReader, encoding: str) -> JsonReader:
    """Return the reader of a file with a JSON array.

    Raises:
        DamagedListError: the file is not JSON.
    """
    mark = BYTE_ORDER_MARK.encode()
    if stream.peek(len(mark)).startswith(mark):
        stream.read(len(mark))
    text = stream if encoding == "utf-8" else _Utf8(stream, encoding)
    return JsonReader(_items(_WithoutLongIntegers(text)), "element", "a file with a JSON array")


class _Utf8:
    """A stream that encodes a text as UTF-8. The text has another encoding, and the parser needs UTF-8."""

    def __init__(self, stream: BufferedReader, encoding: str) -> None:
        self._text = codecs.getreader(encoding)(stream, "replace")

    def read(self, size: int = -1) -> bytes:
        return self._text.read(size).encode()


class _WithoutLongIntegers:
    """A stream that raises a `DamagedListError` at a number with too many digits."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._tail = stream, b""
        #: The number of bytes read so far.
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        found: bytes = self._stream.read(size)
        text = self._tail + found
        if _LONG_DIGITS.search(text[::_STRIDE]) and _LONG_INTEGER.search(text):
            raise DamagedListError(f"it contains a number with more than {_MAX_DIGITS:,} digits")
        self._tail = text[-_MAX_DIGITS - 1 :]
        self.size += len(found)
        return found


def _items(text: _WithoutLongIntegers) -> Iterator[Item]:
    """Yield each element with its position in the array, counted from 1.

    Raises:
        DamagedListError: from some place on, the text is not JSON, or it contains a number that Python can't read.
    """
    import ijson

    number = 0
    try:
        for number, item in enumerate(ijson.items(text, "item"), 1):
            yield number, _with_floats(item), text.size
    except ArithmeticError as error:
        raise DamagedListError(f"it contains a number that can't be read after element {number:,}") from error
    except ijson.JSONError as error:
        message = error.args[0] if error.args else ""
        reason = (message.decode("utf-8", "replace") if isinstance(message, bytes) else message).partition("\n")[0]
        raise DamagedListError(f"it is not valid JSON after element {number:,} ({reason})") from error


def _with_floats(item: Any) -> Any:
    """Return an element with a float in place of each decimal number.

    ijson can yield floats itself, but then it also limits integers to 64 bits.
    """
    if isinstance(item, dict) and _PLAIN_TYPES.issuperset(map(type, item.values())):
        # Most elements are like this, and this is the fastest way to find out.
        return item
    if isinstance(item, Decimal):
        return float(item)
    # An element may be nested too deeply for a recursive function.
    containers = [item]
    while containers:
        container = containers.pop()
        if isinstance(container, dict | list):
            for key, value in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(value, Decimal):
                    container[key] = float(value)
                elif isinstance(value, dict | list):
                    containers.append(value)
    return item
