"""Validate the header fields that a run adds to its requests. No I/O."""

from __future__ import annotations

import re

#: Headers that a run can't set. Only imagefleet sets the headers for the connection, byte ranges, conditional requests,
#: message length and host. User-Agent and Referer have options of their own.
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
    """Return a header field that can be sent unchanged.

    Raises:
        ValueError: the field would end its line, is invalid (RFC 9110, section 5), or is reserved for imagefleet.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("the text before the colon is not a header name")
    if name.lower() in RESERVED_HEADERS:
        raise ValueError(f"{name} can't be set")
    return name, checked_value(value)


def checked_value(value: str) -> str:
    """Return the value of a header field, without surrounding space.

    Raises:
        ValueError: the value has characters other than printable ASCII.
    """
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise ValueError("a header's value must be printable ASCII on one line")
    return value
