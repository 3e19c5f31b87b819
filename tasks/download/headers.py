"""The header fields that a run adds to its requests. Pure."""

from __future__ import annotations

import re

#: Those that are ours to say: where a message ends and whom it is for, what a connection is, which part is asked for,
#: and under which condition.
RESERVED_HEADERS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "te", "trailer", "range", "if-range", "accept-encoding"),
        *("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
        *("connection", "keep-alive", "upgrade", "expect", "proxy-authorization", "proxy-connection"),
        *("user-agent", "referer"),
    }
)
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e]+(?:[ \t]+[\x21-\x7e]+)*")


def checked_header(name: str, value: str) -> tuple[str, str]:
    """Return a field that may stand in a head as it is.

    Raises:
        ValueError: it would end its line, is none (RFC 9110, 5), or is not a run's to say.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the text before the colon is not a header name")
    if name.lower() in RESERVED_HEADERS:
        raise ValueError(f"{name} can't be set")
    return name, checked_value(value)


def checked_value(value: str) -> str:
    """Return the value of a field, without the space around it.

    Raises:
        ValueError: it holds something else than ASCII that can be printed.
    """
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise ValueError("a header's value must be printable ASCII on one line")
    return value
