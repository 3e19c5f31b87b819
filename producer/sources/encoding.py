"""Find out the encoding of a text, and whether bytes are text at all. No I/O."""

from __future__ import annotations

import codecs

BYTE_ORDER_MARK = "\ufeff"
#: The encodings by their byte order marks. UTF-32 comes first because its mark begins with the mark of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def find_encoding(head: bytes) -> str:
    """Return the encoding of a text that begins with these bytes.

    The byte order mark decides the encoding. Without a mark, the encoding is UTF-8.
    """
    return next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")


def check_encoding(name: str) -> None:
    """Check the name of an encoding that a user gave.

    Raises:
        ValueError: Python has no encoding of text with this name.
    """
    try:
        # Python's own decoders read the text. They need an encoding that decodes bytes to text.
        is_text = codecs.lookup(name)._is_text_encoding
    except LookupError:
        is_text = False
    if not is_text:
        raise ValueError(f"{name!r} is not an encoding that Python knows, such as utf-8, latin-1 or cp1252")


def is_binary(head: bytes) -> bool:
    """Return whether at least a tenth of the rows contain zero bytes. A few bad rows don't make a list binary."""
    if b"\0" not in head:
        return False
    rows = [row for row in head.split(b"\n") if row]
    return 10 * sum(b"\0" in row for row in rows) >= len(rows)
